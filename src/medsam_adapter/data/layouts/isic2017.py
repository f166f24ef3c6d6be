"""ISIC 2017 (ISBI 2017 challenge), part 1: lesions in dermoscopy, as challenge.isic-archive.com distributes them.

The folders of images also hold ISIC_..._superpixels.png and a table of ages and sexes, which are not read. The CSV
files of part 3 have the columns image_id, melanoma and seborrheic_keratosis with 0.0 or 1.0; neither of them is a nevus
(https://challenge.isic-archive.com/landing/2017/44).
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from . import isic_archive
from .base import Dataset
from .info import LayoutInfo
from .isic_archive import ClassTable, Part

PARTS = {
    part: Part(
        f"ISIC-2017_{name}_Data", f"ISIC-2017_{name}_Part1_GroundTruth", f"ISIC-2017_{name}_Part3_GroundTruth.csv"
    )
    for part, name in (("train", "Training"), ("val", "Validation"), ("test", "Test_v2"))
}

INFO = LayoutInfo(
    title="ISIC 2017: Skin Lesion Analysis Towards Melanoma Detection, part 1 (segmentation)",
    recognised_by="ISIC-2017_Training_Data, ..._Validation_Data or ..._Test_v2_Data beside its Part1_GroundTruth",
    example="""\
SET/
  ISIC-2017_Training_Data/ISIC_0000000.jpg         and ISIC_0000000_superpixels.png, not read
  ISIC-2017_Training_Part1_GroundTruth/ISIC_0000000_segmentation.png
  ISIC-2017_Validation_Data/, ISIC-2017_Validation_Part1_GroundTruth/
  ISIC-2017_Test_v2_Data/, ISIC-2017_Test_v2_Part1_GroundTruth/
  ISIC-2017_Training_Part3_GroundTruth.csv         for channel=class; also ..._Validation_..., ..._Test_v2_...""",
    labels=isic_archive.LESION,
    targets={"skin lesion": (1,)},
    modality="dermoscopy",
    licence="CC0 1.0",
    where="https://challenge.isic-archive.com/data/#2017, without registration",
    size="2,750 pictures, 576 to 6,748 pixels wide",
    split="2,000 for training, 150 for validation, 600 for the test",
    citation="Codella et al., Skin Lesion Analysis Toward Melanoma Detection: A Challenge at the 2017 International "
    "Symposium on Biomedical Imaging (ISBI), hosted by the International Skin Imaging Collaboration (ISIC), "
    "ISBI 2018, 168-172, doi:10.1109/ISBI.2018.8363547, arXiv:1710.05006",
    channels=("class: melanoma, nevus, seborrheic keratosis",),
)

_FLAGS = {"0": False, "0.0": False, "1": True, "1.0": True}


def _class_of(row: Mapping[str, str]) -> str | None:
    melanoma, keratosis = _FLAGS.get(row["melanoma"]), _FLAGS.get(row["seborrheic_keratosis"])
    if melanoma is None or keratosis is None or (melanoma and keratosis):
        return None
    return "melanoma" if melanoma else "seborrheic keratosis" if keratosis else "nevus"


CLASSES = ClassTable(
    ("image_id", "melanoma", "seborrheic_keratosis"),
    True,
    _class_of,
    {1: "melanoma", 2: "nevus", 3: "seborrheic keratosis"},
)


def detect(root: Path) -> bool:
    return isic_archive.detect(root, PARTS)


def load(root: Path, *, require_labels: bool = True, channel: str = "") -> Dataset:
    """See `open_dataset`; `channel` is "" or "class". Raises DataError as `isic_archive.load`."""
    return isic_archive.load(
        root, name="ISIC 2017", parts=PARTS, licence=INFO.licence, classes=CLASSES,
        require_labels=require_labels, channel=channel,
    )  # fmt: skip
