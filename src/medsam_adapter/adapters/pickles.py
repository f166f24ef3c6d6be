"""Weights in pickles (`.bin`, `.pt`, `.pth`) are not loaded: a pickle can run any program."""

from __future__ import annotations

from pathlib import Path

from huggingface_hub import HfApi, try_to_load_from_cache
from huggingface_hub.errors import HFValidationError, HTTPError

from medsam_adapter.errors import CheckpointError

SUFFIXES = (".bin", ".ckpt", ".pkl", ".pt", ".pth")
TO_SAFETENSORS = {
    "adapter_model.bin": "if you trust its author: PeftModel.from_pretrained(SamModel, NAME).save_pretrained(FOLDER) "
    "writes safetensors; then open FOLDER",
    "pytorch_model.bin": "if you trust its author: SamModel.from_pretrained(NAME).save_pretrained(FOLDER) writes "
    "safetensors; then open FOLDER",
}
"""What makes safetensors of the pickles of PEFT and transformers, who read them as tensors only."""


def refuse_pickle_file(name: str | Path) -> None:
    """Raises CheckpointError if the name is that of a pickled checkpoint, such as sam_vit_b_01ec64.pth."""
    if str(name).endswith(SUFFIXES) and Path(name).is_file():
        raise pickled(name, Path(name).name)


def find_pickle(
    name: str | Path, *files: str, subfolder: str = "", revision: str | None = None, token=None, cache_dir=None, **_
) -> str | None:
    """The first of these files that a folder or Hub repo holds; nothing is downloaded."""
    for file in files:
        path = f"{subfolder}/{file}" if subfolder else file
        try:
            if Path(name).is_dir():
                found = (Path(name) / path).is_file()
            else:
                cached = try_to_load_from_cache(str(name), path, cache_dir, revision)
                found = isinstance(cached, str) or HfApi(token=token).file_exists(str(name), path, revision=revision)
        except (OSError, HTTPError, HFValidationError):
            continue
        if found:
            return file
    return None


def pickled(name: str | Path, found: str) -> CheckpointError:
    """The error of weights that are there as a pickle only."""
    return CheckpointError(
        "its weights are a pickle, which could run any program and is not loaded",
        file=name,
        expected="safetensors",
        found=found,
        hint=TO_SAFETENSORS.get(found.removesuffix(".index.json"), f"msa convert {name} -o FOLDER, then open FOLDER"),
    )
