"""Which weights a result is of: a hash of their files."""

from __future__ import annotations

import hashlib
from pathlib import Path

from medsam_adapter.backbones import resolve_base
from medsam_adapter.baselines.names import NETWORK_FILE, WEIGHTS_FILE

_PATTERNS = ("adapter_model.safetensors", "adapter_model.bin", "model*.safetensors", "pytorch_model*.bin")


def weight_files(name: str | Path) -> list[Path]:
    """The weight files of a run folder, a shipped backbone or a Hub repo in the cache; empty if there are none.

    Of a run folder these are the adapter's: the base is named in its `adapter_config.json`. A folder with a network
    opens as that network, whatever lies beside it. Nothing is downloaded.
    """
    folder = Path(resolve_base(name))
    if not folder.is_dir():
        from huggingface_hub import try_to_load_from_cache
        from huggingface_hub.errors import HFValidationError

        try:
            found = [try_to_load_from_cache(str(name), file) for file in ("adapter_config.json", "config.json")]
        except HFValidationError:  # a path that is no repo's name
            return []
        cached = [Path(file).parent for file in found if isinstance(file, str)]
        if not cached:
            return []
        folder = cached[0]
    patterns = (WEIGHTS_FILE,) if (folder / NETWORK_FILE).is_file() else _PATTERNS
    return next((files for pattern in patterns if (files := sorted(folder.glob(pattern)))), [])


def model_sha256(name: str | Path) -> str | None:
    """sha256 over the weight files one after another, by name (of one: as `sha256sum` says); None without any."""
    files = weight_files(name)
    digest = hashlib.sha256()
    for file in files:
        with file.open("rb") as content:
            while block := content.read(1 << 20):
                digest.update(block)
    return digest.hexdigest() if files else None
