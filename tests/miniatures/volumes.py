"""Small volumes with labels at known places, and writing them as NIfTI."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import nibabel as nib
import numpy as np

SHAPE_ZYX = (6, 32, 32)
_CELLS = 4  # labels stand on a grid of 4 x 4 cells in a slice


def blocks(values: Sequence[int], seed: int, shape_zyx: tuple[int, int, int] = SHAPE_ZYX) -> np.ndarray:
    """(D, H, W) uint8: a box of each value in a cell of its own, at most 16, none on the border of the volume."""
    rng = np.random.default_rng(seed)
    labels = np.zeros(shape_zyx, np.uint8)
    depth, height, width = shape_zyx
    for value, cell in zip(values, rng.permutation(_CELLS**2)[: len(values)], strict=True):
        row, column = divmod(int(cell), _CELLS)
        y, x = row * height // _CELLS + 1, column * width // _CELLS + 1
        size_y, size_x = rng.integers(3, height // _CELLS - 1), rng.integers(3, width // _CELLS - 1)
        first = int(rng.integers(1, depth - 2))
        labels[first : depth - 1, y : y + size_y, x : x + size_x] = value
    return labels


def scan_of(labels: np.ndarray, seed: int, low: float, step: float, noise: float) -> np.ndarray:
    """(D, H, W) float: `low` in the background, `step` more for each label value, and noise."""
    rng = np.random.default_rng(seed + 10_000)
    return low + step * labels.astype(float) + rng.normal(0, noise, labels.shape)


def save_nifti(path: Path, array_zyx: np.ndarray, affine: np.ndarray) -> None:
    """array[k, j, i] is voxel (i, j, k) of the file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    image = nib.Nifti1Image(np.ascontiguousarray(array_zyx.T), affine)
    image.header.set_xyzt_units("mm")
    nib.save(image, path)
