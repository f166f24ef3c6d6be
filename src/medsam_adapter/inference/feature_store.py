"""Frozen features on disk: computed once for each image, memory-mapped from then on.

A file's name is a hash of the pixels that the encoder would see (so of image and preprocessing) and of the encoder's
frozen part (weights, sizes, adapters' place). It holds the features of all slices of one scan and a checksum, which is
verified when the file is opened.
"""

from __future__ import annotations

import hashlib
import json
import zlib
from collections.abc import Callable
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor
from transformers import SamModel

from medsam_adapter.frozen_features import frozen_features, num_frozen_blocks
from medsam_adapter.writing import replacing

TENSOR = "features"


class StoredFeatures:
    """Features of the slices of one scan: `stored[first:last]` reads these slices only, `len` is their number."""

    def __init__(self, file: Path):
        self.file = file
        self._opened: safe_open | None = None
        self.shape = tuple(self._slices().get_shape())

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, slices: slice) -> Tensor:
        return self._slices()[slices]

    def __getstate__(self) -> dict:  # worker processes open the file themselves
        return {**self.__dict__, "_opened": None}

    def _slices(self):
        if self._opened is None:
            self._opened = safe_open(self.file, "pt")
        return self._opened.get_slice(TENSOR)


class FeatureStore:
    """A folder of frozen features of one model.

    Args:
        folder: made if it is missing; several models and data sets may share it.
        model: on the device where features are to be computed. Weights of its frozen part must not change afterwards.
        batch_size: slices encoded at a time.
    """

    def __init__(self, folder: str | Path, model: SamModel, batch_size: int = 8):
        self.folder, self.model, self.batch_size = Path(folder), model, batch_size
        self.folder.mkdir(parents=True, exist_ok=True)
        self.model_key = _hash_of_frozen_part(model)
        self.computed = self.reused = 0

    def get(self, slices: Tensor, progress: Callable[[int, int], None] | None = None) -> StoredFeatures:
        """Features of one scan, computed if they are not there or not intact.

        Args:
            slices: (D, 3, S, S), as the encoder takes them.
            progress: called with (slices done, D).

        Raises:
            OutputError: a full disk, or a folder that cannot be written to.
        """
        digest = hashlib.sha256(self.model_key)
        device = self.model.device.type
        autocast = str(torch.get_autocast_dtype(device)) if torch.is_autocast_enabled(device) else None
        digest.update(json.dumps([list(slices.shape), str(slices.dtype), autocast]).encode())
        digest.update(slices.contiguous().view(torch.uint8).numpy().data)
        file = self.folder / f"{digest.hexdigest()}.safetensors"
        if is_intact(file, len(slices)):
            self.reused += 1
            if progress:
                progress(len(slices), len(slices))
        else:
            self.computed += 1
            self._write(file, slices, progress)
        return StoredFeatures(file)

    def _write(self, file: Path, slices: Tensor, progress) -> None:
        model, parts = self.model, []
        for first in range(0, len(slices), self.batch_size):
            chunk = slices[first : first + self.batch_size].to(model.device)
            parts.append(frozen_features(model, chunk).cpu())
            if progress:
                progress(min(first + self.batch_size, len(slices)), len(slices))
        features = torch.cat(parts).contiguous()
        with replacing(file) as temporary:  # there is never half a file under the final name
            save_file({TENSOR: features}, temporary, metadata={"crc32": str(_checksum(features))})


def is_intact(file: Path, num_slices: int) -> bool:
    """Whether a file holds the features of so many slices, and its checksum is right."""
    if not file.is_file():
        return False
    try:
        with safe_open(file, "pt") as opened:
            features, metadata = opened.get_tensor(TENSOR), opened.metadata() or {}
    except (SafetensorError, OSError, KeyError):
        return False
    return len(features) == num_slices and metadata.get("crc32") == str(_checksum(features))


def _checksum(tensor: Tensor) -> int:
    return zlib.crc32(tensor.contiguous().view(torch.uint8).numpy().data)


def _hash_of_frozen_part(model: SamModel) -> bytes:
    blocks, vision = num_frozen_blocks(model), model.config.vision_config
    digest = hashlib.sha256(json.dumps([blocks, vision.to_dict()], sort_keys=True, default=str).encode())
    encoder = model.vision_encoder
    frozen = {"patch_embed": encoder.patch_embed, "neck": encoder.neck}
    frozen |= {f"layers.{i}": encoder.layers[i] for i in range(blocks)}
    tensors = {f"{part}.{name}": p for part, module in frozen.items() for name, p in module.named_parameters()}
    if encoder.pos_embed is not None:
        tensors["pos_embed"] = encoder.pos_embed
    for name in sorted(tensors):
        value = tensors[name].detach().cpu().contiguous()
        digest.update(f"{name} {tuple(value.shape)} {value.dtype}".encode())
        digest.update(value.view(torch.uint8).numpy().data)
    return digest.digest()
