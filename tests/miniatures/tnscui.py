"""TN-SCUI 2020: TNSCUI2020_train with image, mask and train.csv."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from .sketches import leave_litter, lesion, save

IDS = ("1", "2", "3", "10", "11")
CLASSES = (0, 1, 1, 0, 1)


def write(root: Path, seed: int = 0) -> dict[str, np.ndarray]:
    """{case id: mask (H, W), 0 and 1}"""
    folder = root / "TNSCUI2020_train"
    truth: dict[str, np.ndarray] = {}
    for number, name in enumerate(IDS):
        picture, truth[name] = lesion(seed + number, (130, 130, 130), (60, 60, 60))
        save(folder / f"image/{name}.PNG", picture[..., 0])
        save(folder / f"mask/{name}.PNG", truth[name] * np.uint8(255))
    rows = [f"{name}.PNG,{kind}" for name, kind in zip(IDS, CLASSES, strict=True)]
    (folder / "train.csv").write_text("\r\n".join(["ID,CATE", *rows]) + "\r\n")
    leave_litter(folder / "image", "1.PNG")
    return truth
