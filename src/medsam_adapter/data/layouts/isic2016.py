"""ISIC 2016 (ISBI 2016 challenge), part 1: lesions in dermoscopy, as challenge.isic-archive.com distributes them.

Each archive is unpacked into a folder of its name; a folder of the same name in it is looked into as well. The CSV
files of part 3 cover the same pictures and have no header: ISIC_0000000,benign or ,malignant (the test file: 0.0 or
1.0); the challenge defines malignant as melanoma (https://challenge.isic-archive.com/landing/2016/39/).
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from . import isic_archive
from .base import Dataset
from .info import LayoutInfo
from .isic_archive import ClassTable, Part

PARTS = {
    "train": Part(
        "ISBI2016_ISIC_Part1_Training_Data",
        "ISBI2016_ISIC_Part1_Training_GroundTruth",
        "ISBI2016_ISIC_Part3_Training_GroundTruth.csv",
    ),
    "test": Part(
        "ISBI2016_ISIC_Part1_Test_Data",
        "ISBI2016_ISIC_Part1_Test_GroundTruth",
        "ISBI2016_ISIC_Part3_Test_GroundTruth.csv",
    ),
}

INFO = LayoutInfo(
    title="ISIC 2016: Skin Lesion Analysis toward Melanoma Detection, part 1 (segmentation)",
    recognised_by="ISBI2016_ISIC_Part1_Training_Data or ..._Test_Data beside its GroundTruth",
    example="""\
SET/
  ISBI2016_ISIC_Part1_Training_Data/ISIC_0000000.jpg
  ISBI2016_ISIC_Part1_Training_GroundTruth/ISIC_0000000_Segmentation.png
  ISBI2016_ISIC_Part1_Test_Data/ISIC_0000003.jpg
  ISBI2016_ISIC_Part1_Test_GroundTruth/ISIC_0000003_Segmentation.png
  ISBI2016_ISIC_Part3_Training_GroundTruth.csv     for channel=class: ISIC_0000000,benign
  ISBI2016_ISIC_Part3_Test_GroundTruth.csv         ISIC_0000003,0.0""",
    labels=isic_archive.LESION,
    targets={"skin lesion": (1,)},
    modality="dermoscopy",
    licence="CC0 1.0",
    where="https://challenge.isic-archive.com/data/#2016, without registration",
    size="1,279 pictures, 576 to 4,288 pixels wide",
    split="900 for training, 379 for the test",
    citation="Gutman et al., Skin Lesion Analysis toward Melanoma Detection: A Challenge at the International "
    "Symposium on Biomedical Imaging (ISBI) 2016, hosted by the International Skin Imaging Collaboration (ISIC), "
    "arXiv:1605.01397, doi:10.48550/arXiv.1605.01397",
    channels=("class: melanoma, benign lesion",),
)


def _class_of(row: Mapping[str, str]) -> str | None:
    words = {"benign": "benign lesion", "0.0": "benign lesion", "malignant": "melanoma", "1.0": "melanoma"}
    return words.get(row["class"].lower())


CLASSES = ClassTable(("image_id", "class"), False, _class_of, {1: "melanoma", 2: "benign lesion"})


def detect(root: Path) -> bool:
    return isic_archive.detect(root, PARTS)


def load(root: Path, *, require_labels: bool = True, channel: str = "") -> Dataset:
    """See `open_dataset`; `channel` is "" or "class". Raises DataError as `isic_archive.load`."""
    return isic_archive.load(
        root, name="ISIC 2016", parts=PARTS, licence=INFO.licence, classes=CLASSES,
        require_labels=require_labels, channel=channel,
    )  # fmt: skip
