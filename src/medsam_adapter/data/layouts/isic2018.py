"""ISIC 2018, task 1: lesions in dermoscopy, as challenge.isic-archive.com distributes them.

No classes come with these pictures: the CSV files of task 3 are of other ones (HAM10000).
"""

from __future__ import annotations

from pathlib import Path

from . import isic_archive
from .base import Dataset
from .info import LayoutInfo
from .isic_archive import Part

PARTS = {
    part: Part(f"ISIC2018_Task1-2_{name}_Input", f"ISIC2018_Task1_{name}_GroundTruth")
    for part, name in (("train", "Training"), ("val", "Validation"), ("test", "Test"))
}

INFO = LayoutInfo(
    title="ISIC 2018: Skin Lesion Analysis Towards Melanoma Detection, task 1 (lesion boundary segmentation)",
    recognised_by="ISIC2018_Task1-2_Training_Input, ..._Validation_Input or ..._Test_Input beside its GroundTruth",
    example="""\
SET/
  ISIC2018_Task1-2_Training_Input/ISIC_0000000.jpg, ATTRIBUTION.txt, LICENSE.txt
  ISIC2018_Task1_Training_GroundTruth/ISIC_0000000_segmentation.png
  ISIC2018_Task1-2_Validation_Input/, ISIC2018_Task1_Validation_GroundTruth/
  ISIC2018_Task1-2_Test_Input/, ISIC2018_Task1_Test_GroundTruth/""",
    labels=isic_archive.LESION,
    targets={"skin lesion": (1,)},
    modality="dermoscopy",
    licence="as LICENSE.txt in the archives says (Creative Commons; see also ATTRIBUTION.txt)",
    where="https://challenge.isic-archive.com/data/#2018, without registration",
    size="3,694 pictures, about 13 GB",
    split="2,594 for training, 100 for validation, 1,000 for the test",
    citation="Codella et al., Skin Lesion Analysis Toward Melanoma Detection 2018: A Challenge Hosted by the "
    "International Skin Imaging Collaboration (ISIC), arXiv:1902.03368, doi:10.48550/arXiv.1902.03368; Tschandl et "
    "al., The HAM10000 dataset, Sci. Data 5, 180161 (2018), doi:10.1038/sdata.2018.161",
)


def detect(root: Path) -> bool:
    return isic_archive.detect(root, PARTS)


def load(root: Path, *, require_labels: bool = True, channel: str = "") -> Dataset:
    """See `open_dataset`. Raises DataError as `isic_archive.load`."""
    return isic_archive.load(
        root, name="ISIC 2018", parts=PARTS, licence=INFO.licence, classes=None,
        require_labels=require_labels, channel=channel,
    )  # fmt: skip
