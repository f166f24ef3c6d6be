"""ISIC 2016: the archives of part 1, and the classes of part 3."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from .lesions import write_part

PARTS = {"Training": (0, 1, 2, 4), "Test": (3, 12)}


def write(root: Path, seed: int = 0) -> dict[str, np.ndarray]:
    """{case id: mask (H, W), 0 and 1}"""
    truth: dict[str, np.ndarray] = {}
    for part, ids in PARTS.items():
        base = f"ISBI2016_ISIC_Part1_{part}"
        truth |= write_part(root, f"{base}_Data", f"{base}_GroundTruth", "_Segmentation", ids, seed)
    train = "".join(f"ISIC_{n:07d},{'malignant' if n == 2 else 'benign'}\n" for n in PARTS["Training"])
    test = "".join(f"ISIC_{n:07d},{float(n == 12)}\n" for n in PARTS["Test"])
    (root / "ISBI2016_ISIC_Part3_Training_GroundTruth.csv").write_text(train)
    (root / "ISBI2016_ISIC_Part3_Test_GroundTruth.csv").write_text(test)
    return truth
