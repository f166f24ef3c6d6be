"""KiTS23, KiTS21 and KiTS19 (without cysts, two of its cases without labels); slices come first in the files."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from .volumes import blocks, save_nifti, scan_of

VARIANTS = ({}, {"year": "21"}, {"year": "19"})
SPACING_IJK_MM = (3.0, 0.8, 0.8)  # slice thickness first
# Axis i to the feet, j to the back, k to the left.
AFFINE = np.array([[0, 0, -0.8, 0], [0, -0.8, 0, 0], [-3.0, 0, 0, 0], [0, 0, 0, 1]])
FOLDERS = {"19": "data", "21": "kits21/data", "23": "dataset"}
LABEL_FILES = {"19": "segmentation", "21": "aggregated_MAJ_seg", "23": "segmentation"}
CASES = {"19": (0, 1, 2, 209, 210, 211), "21": (0, 1, 2, 3), "23": (0, 1, 2, 400)}


def write(root: Path, seed: int = 0, year: str = "23") -> dict[str, np.ndarray]:
    """{case id: label map of the file, array[k, j, i] (32, 32, 6)}, labelled cases only."""
    truth: dict[str, np.ndarray] = {}
    base = root / FOLDERS[year]
    for number in CASES[year]:
        name = f"case_{number:05d}"
        axial = blocks(
            (1, 2) if year == "19" else (1, 2, 3), seed + number
        )  # (slices, rows, columns), as a person sees
        scan = scan_of(axial, seed + number, -80, 60, 10)
        save_nifti(base / name / "imaging.nii.gz", scan.T.astype(np.float64), AFFINE)
        if year == "19" and number >= 210:
            continue
        labels = np.ascontiguousarray(axial.T)
        save_nifti(base / name / f"{LABEL_FILES[year]}.nii.gz", labels, AFFINE)
        if year == "21":
            for vote in ("OR", "AND"):
                other = np.zeros_like(labels) if vote == "AND" else np.maximum(labels, 1)
                save_nifti(base / name / f"aggregated_{vote}_seg.nii.gz", other, AFFINE)
            one = (labels == 1).astype(np.uint8)
            save_nifti(base / name / "segmentations/kidney_instance-1_annotation-1.nii.gz", one, AFFINE)
            (base / name / "raw").mkdir()
        if year == "23":
            one = (labels == 1).astype(np.uint8)
            save_nifti(base / name / "instances/kidney_instance-1_annotation-1.nii.gz", one, AFFINE)
        truth[name] = labels
    index = "kits23.json" if year == "23" else "kits.json"
    (base / index).write_text(json.dumps([{"case_id": f"case_{n:05d}", "voxel_spacing": {}} for n in CASES[year]]))
    (root / "README.md").write_text(f"# KiTS{year}\n")
    return truth
