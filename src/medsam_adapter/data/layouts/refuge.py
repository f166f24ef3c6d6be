"""REFUGE (2018): optic disc and cup in fundus photographs, 400 + 400 + 400.

Pictures are found by their names wherever they lie in the folder: g0001.jpg and n0001.jpg (with and without glaucoma,
training), V0001.jpg (validation), T0001.jpg (test), and masks of the same names in a folder Disc_Cup_Masks or, as a
re-release on Kaggle has them (arnavjain1/glaucoma-datasets: train, val and test with Images, gts and index.json), in a
folder gts. So the archives may be unpacked with or without folders of their own names, and the tree of REFUGE2
(REFUGE1-Train-400/Images ...) is read as well. Cropped and square copies, and Training400/AMD, are left out.

Grey levels are 0 cup, 128 the disc around it, 255 background (https://refuge.grand-challenge.org/Details/). The
re-release also has a folder Masks, whose values are other ones; it is not read. Its test part has no masks.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ...errors import DataError
from ..io import read_label, stem
from ..sample import Case, Scan
from .base import Dataset
from .completeness import keep_usable, refuse_channel
from .eye_masks import CUP, LABEL_NAMES, REGIONS, RIM, labels_from_greys
from .files import some
from .info import LayoutInfo
from .pairs import paired_cases, split_of

INFO = LayoutInfo(
    title="REFUGE (2018): Retinal Fundus Glaucoma Challenge, optic disc and cup",
    recognised_by="REFUGE-..., Annotation-Training400/ or a folder Disc_Cup_Masks/; or train/ with Images/ and gts/",
    example="""\
SET/
  Training400/Glaucoma/g0001.jpg, Training400/Non-Glaucoma/n0001.jpg
  Annotation-Training400/Annotation-Training400/Disc_Cup_Masks/Glaucoma/g0001.bmp
  REFUGE-Validation400/V0001.jpg
  REFUGE-Validation400-GT/Disc_Cup_Masks/V0001.bmp
  REFUGE-Test400/Test400/T0001.jpg
  REFUGE-Test-GT/Disc_Cup_Masks/G/T0001.bmp       0 cup, 128 disc, 255 background
or, as on Kaggle:
  train/Images/g0001.jpg, train/gts/g0001.bmp, train/index.json, val/..., test/Images/T0001.jpg""",
    labels=LABEL_NAMES,
    targets=REGIONS,
    modality="fundus photograph",
    licence="terms of the challenge: research, with citation",
    where="https://refuge.grand-challenge.org/REFUGE2Download, after registration",
    size="1,200 pictures: 2,124 x 2,056 pixels for training, 1,634 x 1,634 for validation and test",
    split="400 for training, 400 for validation, 400 for the test, by name; the two cameras differ",
    citation="Orlando et al., REFUGE Challenge: A unified framework for evaluating automated methods for glaucoma "
    "assessment from fundus photographs, Med. Image Anal. 59, 101570 (2020), doi:10.1016/j.media.2019.101570",
)

_NAME = re.compile(r"[gnVT]\d{4}")
_PART_OF = {"g": "train", "n": "train", "V": "val", "T": "test"}
_MASK_FOLDERS = ("disc_cup_masks", "gts")
_COPIES = re.compile(r"(?i).*_(cropped|square)|masks|amd|__macosx")
_GREYS = {255: 0, 128: RIM, 0: CUP}


@dataclass
class RefugeDataset(Dataset):
    """Masks in which 0 is the cup."""

    def read_label_file(self, file: Path, like: Scan | None) -> np.ndarray:
        return labels_from_greys(read_label(file, like=like), _GREYS, file)


def detect(root: Path) -> bool:
    names = _folder_names(root)
    inner = {
        f"{entry.name}/{name}".lower() for entry in root.iterdir() if entry.is_dir() for name in _folder_names(entry)
    }
    last = names | {name.rpartition("/")[2] for name in inner}
    is_original = any(name.startswith(("refuge-", "refuge1-", "annotation-training400")) for name in last)
    return is_original or "disc_cup_masks" in last or {"train/images", "train/gts"} <= inner


def _folder_names(folder: Path) -> set[str]:
    return {entry.name.lower() for entry in folder.iterdir() if entry.is_dir()}


def load(root: Path, *, require_labels: bool = True, channel: str = "") -> Dataset:
    """See `open_dataset`.

    Raises:
        DataError: no pictures of these names, one twice, masks without image, or images without mask where they are
            required (a part without any mask, such as the test part of the re-release, is left out).
    """
    refuse_channel(channel, root)
    images, masks = _find(root)
    if not images:
        raise DataError(
            "is no REFUGE data set", file=root, expected="pictures g0001.jpg, n0001.jpg, V0001.jpg or T0001.jpg",
            found=some(sorted(entry.name for entry in root.iterdir())) or "an empty folder",
            hint="give the folder that the archives were unpacked in",
        )  # fmt: skip
    cases = paired_cases(images, masks, root, "<image>.bmp")
    parts: dict[str, list[Case]] = {"train": [], "val": [], "test": []}
    for case in cases:
        parts[_PART_OF[case.case_id[0]]].append(case)
    notes = [f"No masks came with the {len(part)} pictures of the part '{key}'." for key, part in parts.items()
             if part and not any(case.label for case in part)]  # fmt: skip
    bare = {case.case_id for part in parts.values() if not any(c.label for c in part) for case in part}
    return RefugeDataset(
        name="REFUGE",
        root=root,
        cases=keep_usable(cases, root, require_labels, bare, notes, "<image>.bmp in Disc_Cup_Masks/ or gts/"),
        label_names=dict(LABEL_NAMES),
        regions=dict(REGIONS),
        modality=INFO.modality,
        licence=INFO.licence,
        nested=True,
        official_split=split_of(parts, notes),
        notes=notes,
    )


def _find(root: Path) -> tuple[dict[str, Path], dict[str, Path]]:
    """{name: picture} and {name: mask}, in the order train, validation, test."""
    images: dict[str, Path] = {}
    masks: dict[str, Path] = {}
    for place, folders, files in os.walk(root):
        is_mask_folder = any(part.lower() in _MASK_FOLDERS for part in Path(place).relative_to(root).parts)
        folders[:] = sorted(name for name in folders if not name.startswith(".") and not _COPIES.fullmatch(name))
        found, suffix = (masks, ".bmp") if is_mask_folder else (images, ".jpg")
        for file in sorted(files):
            name = stem(file)
            if not _NAME.fullmatch(name) or not file.lower().endswith(suffix):
                continue
            if name in found:
                raise DataError(
                    f"holds {name} more than once", file=root, expected="each picture and each mask once",
                    found=f"{found[name].relative_to(root)} and {(Path(place) / file).relative_to(root)}",
                    hint="remove the copies, or give the folder of one release",
                )  # fmt: skip
            found[name] = Path(place) / file
    order = {"train": 0, "val": 1, "test": 2}
    return {name: images[name] for name in sorted(images, key=lambda name: (order[_PART_OF[name[0]]], name))}, masks
