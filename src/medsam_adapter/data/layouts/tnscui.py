"""TN-SCUI 2020: thyroid nodules in ultrasound, as the challenge distributes its training set (TNSCUI2020_train).

Masks are 0 and 255. train.csv has the columns ID (the file's name, also accepted without .PNG) and CATE, 0 benign and 1
malignant (https://tn-scui2020.grand-challenge.org/submission/); every nodule is a "thyroid nodule", and the notes say
how many are of which class. The 910 test images have no masks and are not cases here. The data set given may be
TNSCUI2020_train or the folder that holds it; .png and .bmp in any case of letters are accepted.
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path

from ...errors import DataError
from ..io import IMAGE_SUFFIXES, stem
from ..sample import Case
from .base import Dataset
from .completeness import keep_usable, refuse_channel
from .csv_table import read_table
from .files import some
from .info import LayoutInfo
from .pairs import paired_cases, pictures

TRAIN_FOLDER = "TNSCUI2020_train"

INFO = LayoutInfo(
    title="TN-SCUI 2020: Thyroid Nodule Segmentation and Classification in Ultrasound Images",
    recognised_by="image/ beside mask/ and train.csv, or a folder TNSCUI2020_train with these",
    example="""\
SET/
  TNSCUI2020_train/image/1.PNG
  TNSCUI2020_train/mask/1.PNG          0 and 255
  TNSCUI2020_train/train.csv           ID,CATE
                                       1.PNG,0""",
    labels={1: "thyroid nodule"},
    targets={"thyroid nodule": (1,)},
    modality="ultrasound",
    licence="for participants of the challenge; not to be passed on",
    where="https://tn-scui2020.grand-challenge.org, after registration",
    size="3,644 pictures with masks (1,641 benign, 2,003 malignant), 335 x 504 to 719 x 863 pixels",
    split="none with masks: split by picture; which pictures are of one patient is not known",
    citation="Zhou et al., Thyroid Nodule Segmentation and Classification in Ultrasound Images, MICCAI 2020 challenge, "
    "doi:10.5281/zenodo.3715942",
)

CLASSES = {"0": "benign", "1": "malignant"}


def detect(root: Path) -> bool:
    return _is_set(root) or _is_set(root / TRAIN_FOLDER)


def _is_set(folder: Path) -> bool:
    return (folder / "image").is_dir() and (folder / "mask").is_dir() and (folder / "train.csv").is_file()


def load(root: Path, *, require_labels: bool = True, channel: str = "") -> Dataset:
    """See `open_dataset`.

    Raises:
        DataError: no image/ or mask/, masks without image, images without mask where they are required, or a train.csv
            that is damaged.
    """
    refuse_channel(channel, root)
    folder = root / TRAIN_FOLDER if (root / TRAIN_FOLDER).is_dir() else root
    for name in ("image", "mask"):
        if not (folder / name).is_dir():
            raise DataError(
                "is no TN-SCUI data set", file=folder, expected="image/ and mask/",
                found=some(sorted(entry.name for entry in folder.iterdir())) or "an empty folder",
                hint=f"give the folder {TRAIN_FOLDER}",
            )  # fmt: skip
    cases = paired_cases(pictures(folder / "image"), pictures(folder / "mask"), folder, "mask/<image>.PNG")
    cases.sort(key=lambda case: (len(case.case_id), case.case_id))  # 2 before 10
    notes: list[str] = []
    if (folder / "train.csv").is_file():
        notes.append(_class_note(folder / "train.csv", cases))
    return Dataset(
        name="TN-SCUI 2020",
        root=root,
        cases=keep_usable(cases, root, require_labels, (), notes, "mask/<image>.PNG"),
        label_names=dict(INFO.labels),
        modality=INFO.modality,
        licence=INFO.licence,
        mask_values={255: 1},
        notes=notes,
    )


def _class_note(file: Path, cases: list[Case]) -> str:
    """How many of the cases are benign and how many malignant."""
    classes: dict[str, str] = {}
    for row in read_table(file, ("ID", "CATE")):
        name = stem(row["ID"]) if row["ID"].lower().endswith(IMAGE_SUFFIXES) else row["ID"]
        if row["CATE"] not in CLASSES or name in classes:
            raise DataError(
                "is damaged", file=file, expected="each ID once, with CATE 0 (benign) or 1 (malignant)",
                found=f"{row['ID']},{row['CATE']}" + (" for the second time" if name in classes else ""),
                hint="copy the file again",
            )  # fmt: skip
        classes[name] = CLASSES[row["CATE"]]
    counts = Counter(classes.get(case.case_id, "of no class in train.csv") for case in cases)
    found = ", ".join(
        f"{counts[kind]} {kind}" for kind in (*CLASSES.values(), "of no class in train.csv") if counts[kind]
    )
    return f"Nodules: {found}; the target is the nodule, whatever its class."
