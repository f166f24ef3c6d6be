"""BraTS 2020 (with its misnamed label map and the validation part), 2021 and 2023 (with two visits of a patient)."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from .volumes import blocks, save_nifti, scan_of

VARIANTS = ({}, {"year": "2021"}, {"year": "2023"})
AFFINE = np.array([[-1.0, 0, 0, 0], [0, -1, 0, 239], [0, 0, 1, 0], [0, 0, 0, 1]])
SEQUENCES = ("t1", "t1ce", "t2", "flair")
NAMES_2023 = {"t1": "t1n", "t1ce": "t1c", "t2": "t2w", "flair": "t2f"}
# Sequences differ in scale, as scanners make them.
STEPS = {"t1": 40, "t1ce": 300, "t2": 9, "flair": 1500}
CASES = {
    "2020": (
        *(f"MICCAI_BraTS2020_TrainingData/BraTS20_Training_{n:03d}" for n in (1, 2, 3, 355)),
        "MICCAI_BraTS2020_ValidationData/BraTS20_Validation_001",
    ),
    "2021": tuple(f"BraTS2021_{n:05d}" for n in (0, 2, 3, 5)),
    "2023": (
        *(
            f"ASNR-MICCAI-BraTS2023-GLI-Challenge-TrainingData/BraTS-GLI-{name}"
            for name in ("00000-000", "00002-000", "00003-000", "00003-001")
        ),
        "ASNR-MICCAI-BraTS2023-GLI-Challenge-ValidationData/BraTS-GLI-00001-000",
    ),
}


def write(root: Path, seed: int = 0, year: str = "2020") -> dict[str, np.ndarray]:
    """{case id: label map (z, y, x) with 1 necrotic core, 2 edema, 3 enhancing tumor}, labelled cases only."""
    truth: dict[str, np.ndarray] = {}
    mark, ending = ("-", ".nii.gz") if year == "2023" else ("_", ".nii" if year == "2020" else ".nii.gz")
    for number, place in enumerate(CASES[year]):
        name = place.rpartition("/")[2]
        labels = blocks((1, 2, 3), seed + number)
        for sequence in SEQUENCES:
            scan = scan_of(labels, seed + number, 0, STEPS[sequence], STEPS[sequence] / 10)
            scan[:, 0] = scan[:, -1] = 0  # the skull is stripped: zero outside of the brain
            written = NAMES_2023[sequence] if year == "2023" else sequence
            save_nifti(root / place / f"{name}{mark}{written}{ending}", np.maximum(scan, 0).astype(np.int16), AFFINE)
        if "Validation" in place:
            continue
        in_file = labels if year == "2023" else np.where(labels == 3, 4, labels).astype(np.uint8)
        file = f"{name}{mark}seg{ending}" if not name.endswith("_355") else "W39_1998.09.19_Segm.nii"
        save_nifti(root / place / file, in_file, AFFINE)
        truth[name] = labels
    if year == "2020":
        training = root / "MICCAI_BraTS2020_TrainingData"
        (training / "name_mapping.csv").write_text(
            "Grade,BraTS_2017_subject_ID,BraTS_2018_subject_ID,TCGA_TCIA_subject_ID,BraTS_2019_subject_ID,"
            "BraTS_2020_subject_ID\nHGG,Brats17_CBICA_AAB_1,Brats18_CBICA_AAB_1,NA,BraTS19_CBICA_AAB_1,"
            "BraTS20_Training_001\n"
        )
        (training / "survival_info.csv").write_text("Brats20ID,Age,Survival_days,Extent_of_Resection\n")
    return truth
