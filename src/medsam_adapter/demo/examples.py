"""What can be opened without a file: made-up scans, so that nobody's patient is needed."""

from __future__ import annotations

import threading
from pathlib import Path

import numpy as np
from PIL import Image, ImageFilter

from medsam_adapter.data.nifti import save_nifti
from medsam_adapter.data.phantom import make_phantom

CT, CT_FINE, PICTURE = "phantom CT", "phantom CT, finer", "phantom skin lesion"
EXAMPLES = (CT, CT_FINE, PICTURE)
_WRITING = threading.Lock()
_FINE = (48, 160, 160), (3.5, 2.1, 2.1)
_SEED = 900_007  # of no phantom that `msa quickstart` or `msa data phantom` with a small seed trains on


def write_example(name: str, folder: Path) -> Path:
    """Make an example in a folder, once.

    Raises:
        KeyError: no such example.
    """
    with _WRITING:  # two visitors may want the same one first
        return _write(name, folder)


def _write(name: str, folder: Path) -> Path:
    file = folder / {CT: "phantom_ct.nii.gz", CT_FINE: "phantom_ct_fine.nii.gz", PICTURE: "phantom_lesion.png"}[name]
    if file.exists():
        return file
    if name == PICTURE:
        lesion_picture()[0].save(file)
    else:
        scan = (make_phantom(_SEED) if name == CT else make_phantom(_SEED + 1, *_FINE)).scan
        assert scan.affine is not None  # a phantom is a volume
        save_nifti(file, scan.array, scan.affine)
    return file


def lesion_picture(seed: int = 3, side: int = 320) -> tuple[Image.Image, np.ndarray]:
    """A made-up photograph of a brown mark on skin, and its mask (side, side) bool."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:side, :side] / side - 0.5
    angle, radius = np.arctan2(y - 0.03, x + 0.05), np.hypot(y - 0.03, x + 0.05)
    waves = sum(rng.normal(0, 0.018) * np.cos(k * angle + rng.uniform(0, 6.3)) for k in range(2, 7))
    mask = radius < 0.19 + waves
    soft = np.asarray(Image.fromarray((mask * 255).astype(np.uint8)).filter(ImageFilter.GaussianBlur(3)), float) / 255
    skin = np.array([224, 178, 156]) * (1 - 0.12 * np.hypot(x, y))[..., None]
    mottle = Image.fromarray((rng.random((24, 24)) * 255).astype(np.uint8)).resize(
        (side, side), Image.Resampling.BICUBIC
    )
    brown = np.array([120, 72, 52]) * (0.8 + 0.4 * np.asarray(mottle, float) / 255)[..., None]
    picture = skin + soft[..., None] * (brown - skin) + rng.normal(0, 4, (side, side, 1))
    return Image.fromarray(np.clip(picture, 0, 255).astype(np.uint8)), mask
