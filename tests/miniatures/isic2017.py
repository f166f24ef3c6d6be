"""ISIC 2017: the archives of part 1 with super-pixels and ages beside the images, and the classes of part 3."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from .lesions import write_part
from .sketches import SHAPE_YX, save

PARTS = {"Training": (0, 1, 2), "Validation": (3, 4), "Test_v2": (5, 6)}
MELANOMA, KERATOSIS = (2, 5), (1, 4)


def write(root: Path, seed: int = 0) -> dict[str, np.ndarray]:
    """{case id: mask (H, W), 0 and 1}"""
    truth: dict[str, np.ndarray] = {}
    for part, ids in PARTS.items():
        base = f"ISIC-2017_{part}"
        truth |= write_part(root, f"{base}_Data", f"{base}_Part1_GroundTruth", "_segmentation", ids, seed)
        for number in ids:
            tiles = np.zeros((*SHAPE_YX, 3), np.uint8)
            tiles[..., 0] = np.arange(SHAPE_YX[1]) // 8
            save(root / f"{base}_Data/ISIC_{number:07d}_superpixels.png", tiles)
        ages = "".join(f"ISIC_{number:07d},55,female\n" for number in ids)
        (root / f"{base}_Data/{base}_Data_metadata.csv").write_text("image_id,age_approximate,sex\n" + ages)
        rows = "".join(f"ISIC_{n:07d},{float(n in MELANOMA)},{float(n in KERATOSIS)}\n" for n in ids)
        (root / f"{base}_Part3_GroundTruth.csv").write_text("image_id,melanoma,seborrheic_keratosis\n" + rows)
    return truth
