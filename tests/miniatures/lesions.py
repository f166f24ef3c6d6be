"""What the miniatures of the ISIC challenges share."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from .sketches import leave_litter, lesion, save


def write_part(
    root: Path, images: str, masks: str, ending: str, ids: tuple[int, ...], seed: int
) -> dict[str, np.ndarray]:
    """{case id: mask (H, W), 0 and 1} of one part, written into two folders."""
    truth: dict[str, np.ndarray] = {}
    for number in ids:
        name = f"ISIC_{number:07d}"
        picture, truth[name] = lesion(seed + number)
        save(root / f"{images}/{name}.jpg", picture)
        save(root / f"{masks}/{name}{ending}.png", truth[name] * np.uint8(255))
    leave_litter(root / images, f"{name}.jpg")
    return truth
