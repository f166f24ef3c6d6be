"""AMOS 2022: amos22/ with imagesTr, Va, Ts, labelsTr, Va and dataset.json; CT up to amos_0500, MR above."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from .volumes import blocks, save_nifti, scan_of

PARTS = {"Tr": (1, 4, 5, 507, 508), "Va": (8, 13, 517), "Ts": (2, 500, 561)}
SPACING_MM = (5.0, 0.7, 0.7)  # (z, y, x)
AFFINE = np.array([[0.7, 0, 0, -160], [0, 0.7, 0, -150], [0, 0, 5.0, 1200], [0, 0, 0, 1]])
# As dataset.json writes them, misspelt where it is.
NAMES = (
    "background", "spleen", "right kidney", "left kidney", "gall bladder", "esophagus", "liver", "stomach", "arota",
    "postcava", "pancreas", "right adrenal gland", "left adrenal gland", "duodenum", "bladder", "prostate/uterus",
)  # fmt: skip


def write(root: Path, seed: int = 0) -> dict[str, np.ndarray]:
    """{case id: label map (z, y, x)} of all that is written, the test scans aside."""
    base = root / "amos22"
    truth: dict[str, np.ndarray] = {}
    lists: dict[str, list] = {}
    for part, numbers in PARTS.items():
        for number in numbers:
            name = f"amos_{number:04d}"
            marks = blocks(range(1, 16), seed + number)
            is_ct = number <= 500
            scan = scan_of(marks, seed + number, -100 if is_ct else 100, 18, 8)
            save_nifti(base / f"images{part}/{name}.nii.gz", scan.astype(np.float32), AFFINE)
            entry = {"image": f"./images{part}/{name}.nii.gz"}
            if part != "Ts":
                save_nifti(base / f"labels{part}/{name}.nii.gz", marks, AFFINE)
                entry["label"] = f"./labels{part}/{name}.nii.gz"
                truth[name] = marks
            lists.setdefault(part, []).append(entry)
    content = {
        "name": "AMOS",
        "description": "Multi-Modality Abdominal Multi-Organ Segmentation Challenge",
        "modality": {"0": "CT"},
        "labels": {str(value): name for value, name in enumerate(NAMES)},
        "numTraining": len(lists["Tr"]),
        "numValidation": len(lists["Va"]),
        "numTest": len(lists["Ts"]),
        "training": lists["Tr"],
        "validation": lists["Va"],
        "test": lists["Ts"],
    }
    (base / "dataset.json").write_text(json.dumps(content))
    (base / "readme.md").write_text("# AMOS\n")
    return truth
