"""BTCV: RawData/Training with the 30 labelled scans and RawData/Testing, or the form of MONAI's tutorials."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from .volumes import blocks, save_nifti, scan_of

VARIANTS = ({}, {"form": "monai"})
LABELLED = (*range(1, 11), *range(21, 41))
TESTING = (61, 62)
SPACING_MM = (3.0, 0.76, 0.76)  # (z, y, x)
# As the files of the challenge have it: i to the left, j to the front.
AFFINE = np.array([[-0.76, 0, 0, 180], [0, 0.76, 0, -170], [0, 0, 3.0, -420], [0, 0, 0, 1]])


def write(root: Path, seed: int = 0, form: str = "raw", labelled: tuple[int, ...] = LABELLED) -> dict[str, np.ndarray]:
    """{case id: label map (z, y, x)}. The form is "raw" or, with dataset_0.json, "monai"."""
    images, labels = ("img", "label") if form == "raw" else ("imagesTr", "labelsTr")
    base = root / "RawData/Training" if form == "raw" else root
    testing = root / "RawData/Testing/img" if form == "raw" else root / "imagesTs"
    truth: dict[str, np.ndarray] = {}
    for number in (*labelled, *TESTING):
        marks = blocks(range(1, 14), seed + number)
        scan = scan_of(marks, seed + number, -100, 20, 8).astype(np.int16)
        if number in TESTING:
            save_nifti(testing / f"img{number:04d}.nii.gz", scan, AFFINE)
            continue
        save_nifti(base / images / f"img{number:04d}.nii.gz", scan, AFFINE)
        save_nifti(base / labels / f"label{number:04d}.nii.gz", marks, AFFINE)
        truth[f"img{number:04d}"] = marks
    if form == "monai":
        entries = [{"image": f"imagesTr/img{n:04d}.nii.gz", "label": f"labelsTr/label{n:04d}.nii.gz"} for n in labelled]
        content = {
            "description": "btcv yucheng",
            "labels": {"0": "background", "1": "spleen", "2": "rkid"},
            "licence": "yt",
            "modality": {"0": "CT"},
            "name": "btcv",
            "numTest": len(TESTING),
            "numTraining": len(labelled),
            "test": [f"imagesTs/img{n:04d}.nii.gz" for n in TESTING],
            "training": entries[:-2],
            "validation": entries[-2:],
        }
        (root / "dataset_0.json").write_text(json.dumps(content))
    else:
        (base / images / "._img0001.nii.gz").write_bytes(b"\0\5\x16\7")  # what macOS leaves beside unpacked files
        (root / "RawData/.DS_Store").write_bytes(b"\0")
    return truth
