"""A task of the Medical Segmentation Decathlon, or the same as nnU-Net v2 keeps it."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from .volumes import blocks, save_nifti, scan_of

VARIANTS = ({}, {"form": "nnunet"})
AFFINE = np.diag([0.8, 0.8, 2.5, 1.0])
NAMES = {1: "liver", 2: "cancer"}
NUM_CASES = 4


def write(root: Path, seed: int = 0, form: str = "msd") -> dict[str, np.ndarray]:
    """{case id: label map (z, y, x)}; the form is "msd" or "nnunet"."""
    truth: dict[str, np.ndarray] = {}
    ending = "" if form == "msd" else "_0000"
    for number in range(NUM_CASES):
        name = f"liver_{number}"
        labels = blocks(tuple(NAMES), seed + number)
        scan = scan_of(labels, seed + number, -100, 90, 15)
        save_nifti(root / f"imagesTr/{name}{ending}.nii.gz", scan.astype(np.float32), AFFINE)
        save_nifti(root / f"labelsTr/{name}.nii.gz", labels, AFFINE)
        truth[name] = labels
    save_nifti(root / f"imagesTs/liver_9{ending}.nii.gz", np.zeros((6, 32, 32), np.float32), AFFINE)
    if form == "msd":
        (root / "imagesTr/._liver_0.nii.gz").write_bytes(b"\0\5\x16\7")
        content = {
            "name": "Liver",
            "licence": "CC-BY-SA 4.0",
            "modality": {"0": "CT"},
            "labels": {"0": "background", **{str(value): name for value, name in NAMES.items()}},
            "numTraining": NUM_CASES,
            "numTest": 1,
            "training": [{"image": f"./imagesTr/{n}.nii.gz", "label": f"./labelsTr/{n}.nii.gz"} for n in truth],
            "test": ["./imagesTs/liver_9.nii.gz"],
        }
    else:
        content = {
            "channel_names": {"0": "CT"},
            "labels": {"background": 0, **{name: value for value, name in NAMES.items()}},
            "numTraining": NUM_CASES,
            "file_ending": ".nii.gz",
        }
    (root / "dataset.json").write_text(json.dumps(content))
    return truth
