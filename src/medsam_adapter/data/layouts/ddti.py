"""DDTI, Digital Database of Thyroid Ultrasound Images: the original with polygons, and the re-release with masks.

The original: <case>.xml beside <case>_1.jpg, <case>_2.jpg ...; a case is one patient. Each <mark> of the XML names an
<image> and holds in <svg> a JSON list of regions with "points"; several polygons of a picture are united. A point (x,
y) is the centre of the pixel in column x and row y; the pixels that an outline passes through belong to the nodule. The
<svg> of some cases (197 and 205) is cut off behind its last point: the polygons are read, and the notes say so.

The re-release (https://github.com/WAMAWAMA/TNSCUI2020-Seg-Rank1st, 637 pictures of one nodule each) has renumbered
pictures as PNG: 1_or_data/image and mask, 2_preprocessed_data/stage1 and stage2 with p_image and p_mask, or p_image and
p_mask alone. Of a whole re-release 1_or_data is read. Which pictures are of one patient is lost in it, and the classes
in its category.csv and train.csv are invented, as its readme says.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from ...errors import DataError
from ..sample import Case, Scan
from .base import Dataset
from .completeness import keep_usable, refuse_channel
from .ddti_marks import Marks, fill_polygons, read_marks
from .files import some
from .info import LayoutInfo
from .pairs import paired_cases, pictures

INFO = LayoutInfo(
    title="DDTI: Digital Database of Thyroid Ultrasound Images",
    recognised_by="1.xml beside 1_1.jpg; or 1_or_data/, 2_preprocessed_data/, or p_image/ beside p_mask/",
    example="""\
SET/
  1.xml               <case><number>1</number> ... <mark><image>1</image><svg>[{"points": [{"x": 250, "y": 72}, ...],
                      "regionType": "freehand"}]</svg></mark></case>
  1_1.jpg, 1_2.jpg    the pictures of case 1
or, as PNG:
SET/
  1_or_data/image/0000.PNG, mask/0000.PNG, category.csv
  2_preprocessed_data/stage1/p_image/0000.PNG, p_mask/0000.PNG""",
    labels={1: "thyroid nodule"},
    targets={"thyroid nodule": (1,)},
    modality="ultrasound",
    licence="open access for research; no licence is named",
    where="http://cimalab.intec.co/applications/thyroid, or on Kaggle: dasmehdixtr/ddti-thyroid-ultrasound-images",
    size="original: 390 cases, 480 pictures of 560 x 360 pixels; re-release: 637 pictures",
    split="none: split by patient (original) or by picture (re-release)",
    citation="Pedraza et al., An open access thyroid ultrasound image database, Proc. SPIE 9287, 92870W (2015), "
    "doi:10.1117/12.2073532",
)

# Where a re-release may lie below the folder that was given.
_WRAPPERS = ("", "DDTI", "DDTI dataset", "DDTI dataset/DDTI", "DDTI dataset/DDTI dataset")
_PICTURE = re.compile(r"(\d+)_(\d+)")


@dataclass
class PolygonDataset(Dataset):
    """Polygons in XML files; `marks` is {case id: its marks}."""

    marks: dict[str, Marks] = field(default_factory=dict)

    def read_labels(self, case: Case, like: Scan | None = None, rater: str | None = None) -> np.ndarray | None:
        if case.label is None or rater is not None:
            return super().read_labels(case, like, rater)
        like = self.read_scan(case) if like is None else like
        marks = self.marks[case.case_id]
        if marks.damage:
            raise DataError(
                "holds marks that cannot be read", file=case.label, expected='a JSON list [{"points": [...]}, ...]',
                found=marks.damage, hint="copy the file again, or remove it: its pictures are unlabelled then",
            )  # fmt: skip
        return fill_polygons(marks.polygons_xy, like.shape_zyx[1:])[None]


def detect(root: Path) -> bool:
    return _is_original(root) or _png_folders(root) is not None


def _is_original(root: Path) -> bool:
    names = {entry.name.lower() for entry in root.iterdir()}
    return any(re.fullmatch(r"\d+\.xml", name) and f"{name[:-4]}_1.jpg" in names for name in names)


def _png_folders(root: Path) -> tuple[Path, Path] | None:
    """The folders of images and masks of a re-release."""
    for wrapper in _WRAPPERS:
        folder = root / wrapper
        for images, masks, sign in (
            ("1_or_data/image", "1_or_data/mask", ""),
            ("image", "mask", "category.csv"),
            ("2_preprocessed_data/stage1/p_image", "2_preprocessed_data/stage1/p_mask", ""),
            ("stage1/p_image", "stage1/p_mask", ""),
            ("p_image", "p_mask", ""),
        ):
            if (folder / images).is_dir() and (folder / masks).is_dir() and (folder / sign).exists():
                return folder / images, folder / masks
    return None


def load(root: Path, *, require_labels: bool = True, channel: str = "") -> Dataset:
    """See `open_dataset`. Reads the XML files, which say which pictures are marked.

    Raises:
        DataError: neither form of the data set, a mark or a mask without its image, or images without mask where they
            are required (a picture that the original does not mark is none of these; it is left out).
    """
    refuse_channel(channel, root)
    facts: dict[str, Any] = {
        "name": "DDTI", "root": root, "label_names": dict(INFO.labels), "modality": INFO.modality,
        "licence": INFO.licence,
    }  # fmt: skip
    notes: list[str] = []
    if _is_original(root):
        cases, marks = _original_cases(root, notes)
        bare = [case.case_id for case in cases if case.label is None]
        kept = keep_usable(cases, root, require_labels, bare, notes, "<case>.xml")
        return PolygonDataset(cases=kept, marks=marks, notes=notes, **facts)
    folders = _png_folders(root)
    if folders is None:
        raise DataError(
            "is no DDTI data set", file=root, expected=INFO.recognised_by,
            found=some(sorted(entry.name for entry in root.iterdir())) or "an empty folder",
            hint="give the folder that holds the XML files, or 1_or_data/",
        )  # fmt: skip
    images, masks = folders
    cases = paired_cases(pictures(images), pictures(masks), images.parent, f"{masks.name}/<image>.PNG")
    notes.append(
        f"Read from {images.parent.name}/{images.name}. This re-release has lost which pictures are of one patient, so "
        "that a split by picture may have a patient on both sides."
    )
    kept = keep_usable(cases, root, require_labels, (), notes, f"{masks.name}/<image>.PNG")
    return Dataset(cases=kept, mask_values={255: 1}, notes=notes, **facts)


def _original_cases(root: Path, notes: list[str]) -> tuple[list[Case], dict[str, Marks]]:
    """The pictures of the original in the order of their numbers, and the marks of those that have some."""
    images = {name: path for name, path in pictures(root).items() if _PICTURE.fullmatch(name)}
    numbers = {name: tuple(map(int, name.split("_"))) for name in images}
    files = {file.stem: file for file in root.iterdir() if file.suffix.lower() == ".xml" and file.stem.isdigit()}
    marks: dict[str, Marks] = {}
    cut_off: list[str] = []
    for patient, file in files.items():
        own = [name for name in images if name.partition("_")[0] == patient]
        found = read_marks(file, own)
        marks |= found
        cut_off += [name for name, mark in found.items() if mark.is_cut_off]
    strangers = sorted(set(marks) - set(images))
    if strangers:
        raise DataError(
            "marks pictures that are not there", file=root, expected="a picture <case>_<image>.jpg for each mark",
            found=f"{len(strangers)} lacking: {some(strangers)}", hint="unpack the archive again",
        )  # fmt: skip
    cases = [
        Case(name, images[name], files[name.partition("_")[0]] if name in marks else None, name.partition("_")[0])
        for name in sorted(images, key=numbers.__getitem__)
    ]
    bare = [case.case_id for case in cases if case.label is None]
    if bare:
        notes.append(f"{len(bare)} pictures have no polygon and are unlabelled: {some(bare)}.")
    if cut_off:
        notes.append(f"The marks of {some(sorted(cut_off))} are cut off in the file behind their last point, and used.")
    return cases, marks
