"""REFUGE: the six archives unpacked beside one another, or train, val and test as Kaggle has them."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from .sketches import eye, leave_litter, save

VARIANTS = ({}, {"form": "kaggle"})
NAMES = ("g0001", "n0001", "n0002", "V0001", "V0002", "T0001", "T0002")
GREYS = np.array([255, 128, 0], np.uint8)  # of background, rim and cup


def write(root: Path, seed: int = 0, form: str = "challenge") -> dict[str, np.ndarray]:
    """{case id: labels (H, W)} of the cases with a mask; the form is "challenge" or "kaggle"."""
    truth: dict[str, np.ndarray] = {}
    index: dict[str, dict[str, dict]] = {"train": {}, "val": {}, "test": {}}
    for number, name in enumerate(NAMES):
        picture, labels = eye(seed + number)
        part = {"V": "val", "T": "test"}.get(name[0], "train")
        image, mask = _places(name) if form == "challenge" else (f"{part}/Images/{name}.jpg", f"{part}/gts/{name}.bmp")
        save(root / image, picture)
        index[part][str(len(index[part]))] = {"ImgName": f"{name}.jpg", "Label": int(name[0] == "g")}
        if form == "kaggle":
            save(root / part / f"Images_Cropped/{name}.jpg", picture[8:40, 8:40])
            if part == "test":
                continue
            save(root / part / f"Masks/{name}.png", labels)
        save(root / mask, GREYS[labels])
        truth[name] = labels
    if form == "kaggle":
        for part, content in index.items():
            (root / part / "index.json").write_text(json.dumps(content))
        return truth
    (root / "Annotation-Training400/Annotation-Training400/Fovea_location.xlsx").write_bytes(b"PK\3\4")
    save(root / "__MACOSX/Training400/Glaucoma/g0001.jpg", eye(99)[0])
    leave_litter(root / "Training400/Glaucoma", "g0001.jpg")
    return truth


def _places(name: str) -> tuple[str, str]:
    """Where a picture and its mask lie in the archives of the challenge."""
    if name[0] in "gn":
        kind = "Glaucoma" if name[0] == "g" else "Non-Glaucoma"
        masks = "Annotation-Training400/Annotation-Training400/Disc_Cup_Masks"
        return f"Training400/{kind}/{name}.jpg", f"{masks}/{kind}/{name}.bmp"
    if name[0] == "V":
        return f"REFUGE-Validation400/{name}.jpg", f"REFUGE-Validation400-GT/Disc_Cup_Masks/{name}.bmp"
    kind = "G" if name == "T0001" else "N"
    return f"REFUGE-Test400/Test400/{name}.jpg", f"REFUGE-Test-GT/Disc_Cup_Masks/{kind}/{name}.bmp"
