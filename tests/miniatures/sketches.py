"""Small pictures with something to find in them, and how they are saved."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

SHAPE_YX = (48, 64)


def ellipse(centre_yx: tuple[float, float], radii_yx: tuple[float, float], shape_yx=SHAPE_YX) -> np.ndarray:
    """(H, W) boolean."""
    y, x = np.mgrid[: shape_yx[0], : shape_yx[1]]
    return ((y - centre_yx[0]) / radii_yx[0]) ** 2 + ((x - centre_yx[1]) / radii_yx[1]) ** 2 <= 1


def eye(seed: int) -> tuple[np.ndarray, np.ndarray]:
    """A fundus photograph (H, W, 3) uint8, and its labels (H, W): 1 the disc around the cup, 2 the cup."""
    rng = np.random.default_rng(seed)
    centre = (rng.integers(20, 28), rng.integers(24, 40))
    labels = ellipse(centre, (15, 14)).astype(np.uint8) + ellipse((centre[0], centre[1] - 1), (7, 6))
    ground = np.array([[120, 50, 20], [200, 140, 70], [230, 200, 150]])[labels]
    return np.clip(ground + rng.integers(-12, 12, (*SHAPE_YX, 3)), 0, 255).astype(np.uint8), labels


def lesion(seed: int, ground=(210, 160, 140), dark=(110, 60, 40)) -> tuple[np.ndarray, np.ndarray]:
    """A picture (H, W, 3) uint8 with one dark spot, and where it is, (H, W) 0 and 1."""
    rng = np.random.default_rng(seed)
    spot = ellipse((rng.integers(18, 30), rng.integers(20, 44)), (rng.integers(8, 14), rng.integers(8, 16)))
    picture = np.where(spot[..., None], dark, ground) + rng.integers(-15, 15, (*SHAPE_YX, 3))
    return np.clip(picture, 0, 255).astype(np.uint8), spot.astype(np.uint8)


def save(path: Path, array: np.ndarray) -> Path:
    """In the format that the suffix says; JPEG with little loss."""
    path.parent.mkdir(parents=True, exist_ok=True)
    options = {"quality": 95, "subsampling": 0} if path.suffix.lower() == ".jpg" else {}
    Image.fromarray(array).save(path, **options)
    return path


def leave_litter(folder: Path, name: str) -> None:
    """What Windows and macOS leave beside the files of an archive."""
    (folder / "Thumbs.db").write_bytes(b"\xd0\xcf\x11\xe0")
    (folder / ".DS_Store").write_bytes(b"\0\0\0\1Bud1")
    (folder / f"._{name}").write_bytes(b"\0\5\x16\7")
