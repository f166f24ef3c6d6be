"""ISIC 2018: the archives of task 1."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from .lesions import write_part

PARTS = {"Training": (0, 1, 3), "Validation": (12255, 12346), "Test": (12169, 12236)}


def write(root: Path, seed: int = 0) -> dict[str, np.ndarray]:
    """{case id: mask (H, W), 0 and 1}"""
    truth: dict[str, np.ndarray] = {}
    for part, ids in PARTS.items():
        images, masks = f"ISIC2018_Task1-2_{part}_Input", f"ISIC2018_Task1_{part}_GroundTruth"
        truth |= write_part(root, images, masks, "_segmentation", ids, seed)
        for folder in (images, masks):
            for text in ("ATTRIBUTION.txt", "LICENSE.txt"):
                (root / folder / text).write_text("see the archive\n")
    return truth
