"""KiTS19, KiTS21 and KiTS23: kidneys, tumors and cysts in CT.

Accepted: the cloned repository after its download script has run (kits19/data, kits21/kits21/data, kits23/dataset), the
folder of case folders in it, or one above it. Label files: segmentation.nii.gz (19, 23); of KiTS21, in which several
people marked each object, aggregated_MAJ_seg.nii.gz, the vote of the majority. KiTS19 counts cysts as kidney and has
two labels; its cases from 210 on are the challenge's test set and have none.

Regions are the "hierarchical evaluation classes" of KiTS21 and KiTS23 (kits23/configuration/labels.py).

Voxels are stored slice first, (slices, height, width), and the affine says so (axis i runs downwards, j to the back, k
to the left), so that axial slices come out right. Files of the first weeks of KiTS19, before 16 April 2019, have
diag(slice thickness, pixel, pixel) instead, as if the slices were sagittal (github.com/neheller/kits19/issues/15); they
are refused.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from ...errors import DataError
from ..sample import Case, Scan
from .base import Dataset
from .completeness import files_by_id, folders_by_id, keep_usable, refuse_channel, refuse_lacking
from .files import some
from .info import LayoutInfo

LABELS = {1: "kidney", 2: "tumor", 3: "cyst"}
REGIONS = {"kidney and masses": (1, 2, 3), "masses": (2, 3), "tumor": (2,)}
LABELS_19 = {1: "kidney", 2: "tumor"}
REGIONS_19 = {"kidney and masses": (1, 2), "tumor": (2,)}
LICENCE = "CC BY-NC-SA 4.0"

INFO = LayoutInfo(
    title="KiTS19, KiTS21, KiTS23: kidney tumor segmentation",
    recognised_by="case folders case_00000 with imaging.nii.gz, segmentation.nii.gz or aggregated_MAJ_seg.nii.gz",
    example="""\
SET/dataset/                        KiTS23; data/ in KiTS19, kits21/data/ in KiTS21
  kits23.json
  case_00000/imaging.nii.gz
  case_00000/segmentation.nii.gz    KiTS21: aggregated_MAJ_seg.nii.gz
  case_00000/instances/...""",
    labels=LABELS,
    targets=REGIONS,
    modality="CT",
    licence=LICENCE,
    where="https://github.com/neheller/kits23 (kits23_download_data); https://github.com/neheller/kits21 and kits19 "
    "(clone, then starter_code/get_imaging.py)",
    size="labelled: 210 (2019), 300 (2021), 489 (2023) scans, 512 x 512",
    split="none with labels: split by patient; KiTS19's cases from 210 on have no labels",
    citation="Heller et al., The KiTS21 Challenge, doi:10.48550/arXiv.2307.01984 (2023); Heller et al., The state of "
    "the art in kidney and kidney tumor segmentation in contrast-enhanced CT imaging: Results of the KiTS19 challenge, "
    "Med. Image Anal. 67, 101821 (2021), doi:10.1016/j.media.2020.101821",
)

_PLACES = (".", "dataset", "data", "kits21/data", "kits19/data", "kits23/dataset", "kits21/kits21/data")
_CASE = r"case_\d{5}"
_IMAGE, _LABEL = r"(imaging)\.nii(?:\.gz)?", r"(segmentation|aggregated_MAJ_seg)\.nii(?:\.gz)?"
_FIRST_TEST_CASE_19 = 210


def detect(root: Path) -> bool:
    return _find(root) is not None


def _find(root: Path) -> Path | None:
    for place in _PLACES:
        folders = folders_by_id(root / place, _CASE)
        if any(files_by_id(folder, _IMAGE) or files_by_id(folder, _LABEL) for folder in folders.values()):
            return root / place
    return None


class KitsDataset(Dataset):
    """KiTS, whose first files say wrongly how they lie."""

    def read_scan(self, case: Case) -> Scan:
        """As `Dataset.read_scan`; also raises DataError for a file of before April 2019, see above."""
        scan = super().read_scan(case)
        if scan.affine is None:
            return scan
        width, height, slices = scan.shape_zyx
        size = np.diag(scan.affine)
        if width == height != slices and np.allclose(scan.affine, np.diag(size)):
            raise DataError(
                "says that its slices are sagittal, as KiTS19 did before 16 April 2019",
                file=case.image,
                expected="an affine whose first axis runs from head to foot",
                found=f"diag({', '.join(f'{value:g}' for value in size)})",
                hint="download the case again (starter_code/get_imaging.py), or mend the affines of image and label",
            )
        return scan


def load(root: Path, *, require_labels: bool = True, channel: str = "") -> Dataset:
    """See `open_dataset`.

    Raises:
        DataError: no case folders, a case without imaging.nii.gz, or without label file where it should have one.
    """
    refuse_channel(channel, root)
    base = _find(root)
    if base is None:
        raise DataError(
            "is not KiTS as it is distributed",
            file=root,
            expected="case folders case_00000 with imaging.nii.gz and segmentation.nii.gz",
            found=some(sorted(entry.name for entry in root.iterdir())) or "an empty folder",
            hint="give the folder of the case folders: data/ (KiTS19, KiTS21) or dataset/ (KiTS23)",
        )
    folders = folders_by_id(base, _CASE)
    scans = {name: files_by_id(folder, _IMAGE) for name, folder in folders.items()}
    images = {name: found["imaging"] for name, found in scans.items() if "imaging" in found}
    labels = {name: files_by_id(folder, _LABEL) for name, folder in folders.items()}
    refuse_lacking(
        "has cases without their scan", base, set(folders) - set(images),
        "imaging.nii.gz in each case folder",
        "the repositories hold the labels only: run kits23_download_data, or starter_code/get_imaging.py",
    )  # fmt: skip
    cases = [
        Case(name, images[name], found.get("aggregated_MAJ_seg", found.get("segmentation")))
        for name, found in labels.items()
    ]
    is_21 = any("aggregated_MAJ_seg" in found for found in labels.values())
    is_19 = not is_21 and (base / "kits.json").is_file()  # KiTS23 has kits23.json
    unlabelled = {name for name in folders if is_19 and int(name[-5:]) >= _FIRST_TEST_CASE_19}
    notes: list[str] = []
    expected = "aggregated_MAJ_seg.nii.gz" if is_21 else "segmentation.nii.gz"
    cases = keep_usable(cases, root, require_labels, unlabelled, notes, f"{expected} in each case folder")
    if not is_21 and not any((base / name).is_file() for name in ("kits.json", "kits23.json")):
        notes.append(
            "Read as KiTS23, as neither kits23.json nor kits.json is here; KiTS19 wants its kits.json beside the cases."
        )
    if is_19:
        notes.append("This is KiTS19, whose label kidney includes cysts.")
    if is_21:
        notes.append("Labels are the vote of the majority, aggregated_MAJ_seg.nii.gz.")
    return KitsDataset(
        name="KiTS19" if is_19 else "KiTS21" if is_21 else "KiTS23",
        root=root,
        cases=cases,
        label_names=dict(LABELS_19 if is_19 else LABELS),
        regions=dict(REGIONS_19 if is_19 else REGIONS),
        modality=INFO.modality,
        licence=LICENCE,
        intensity="ct:soft-tissue",
        orientation="LPS",
        notes=notes,
    )
