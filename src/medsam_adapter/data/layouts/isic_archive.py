"""What the layouts of the ISIC challenges share: parts in folders of their own, and classes in CSV files.

With `channel="class"` the label of a lesion is its class ("melanoma", "nevus", ...), so that a recipe can learn one
class; otherwise each lesion is a "skin lesion", whatever it is.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from ...errors import DataError
from ..sample import Case, Scan
from .base import Dataset
from .completeness import keep_usable
from .csv_table import read_table
from .files import some
from .pairs import inner_folder, paired_cases, pictures, refuse_double_ids, split_of

LESION = {1: "skin lesion"}


@dataclass(frozen=True)
class Part:
    """One part of a challenge: the names of its archives without .zip, and of the CSV file of its classes."""

    images: str
    masks: str
    classes: str = ""


@dataclass(frozen=True)
class ClassTable:
    """How the CSV files of a year say what a lesion is.

    Attributes:
        columns: the columns that are read, the image id first.
        has_header: the first line names the columns.
        class_of: the class of a row {column: text}; None for a value that means nothing.
        names: {label value: class}.
    """

    columns: Sequence[str]
    has_header: bool
    class_of: Callable[[Mapping[str, str]], str | None]
    names: Mapping[int, str]


@dataclass
class LesionDataset(Dataset):
    """Lesions labelled by their class; `class_values` is {case id: label value}."""

    class_values: dict[str, int] = field(default_factory=dict)

    def read_labels(self, case: Case, like: Scan | None = None, rater: str | None = None) -> np.ndarray | None:
        labels = super().read_labels(case, like, rater)
        return labels if labels is None else labels * labels.dtype.type(self.class_values[case.case_id])


def detect(root: Path, parts: Mapping[str, Part]) -> bool:
    return any((root / part.images).is_dir() and (root / part.masks).is_dir() for part in parts.values())


def load(
    root: Path,
    *,
    name: str,
    parts: Mapping[str, Part],
    licence: str,
    classes: ClassTable | None,
    require_labels: bool,
    channel: str,
) -> Dataset:
    """The pictures of the parts that are there; see `open_dataset`.

    Raises:
        DataError: no part, masks without image, images without mask where they are required, another channel than
            "class", or classes that are not there or cannot be understood.
    """
    if channel not in ("", "class") or (channel and classes is None):
        raise DataError(
            "does not have the wanted channel",
            file=root,
            expected="no channel (every lesion)"
            + (', or "class"' if classes else "; no classes come with these masks"),
            found=channel,
        )
    cases: dict[str, list[Case]] = {}
    for key, part in parts.items():
        images, masks = root / part.images, root / part.masks
        if not images.is_dir():
            if masks.is_dir():
                raise DataError(
                    "has masks without their images", file=masks, expected=part.images, found="no such folder",
                    hint=f"unpack {part.images}.zip beside it",
                )  # fmt: skip
            continue
        cases[key] = paired_cases(
            pictures(inner_folder(images), suffixes=(".jpg", ".jpeg")),
            pictures(inner_folder(masks), "_segmentation", (".png",)) if masks.is_dir() else {},
            images,
            "<image>_segmentation.png",
        )
    if not cases:
        raise DataError(
            f"is no {name} data set", file=root, expected=" or ".join(part.images for part in parts.values()),
            found=some(sorted(entry.name for entry in root.iterdir())) or "an empty folder",
            hint="give the folder that the archives were unpacked in",
        )  # fmt: skip
    every = [case for part in cases.values() for case in part]
    refuse_double_ids(every, root)
    notes = [f"The official part '{key}' is not here." for key in parts if key not in cases]
    # A part whose masks were not unpacked at all has no labels; one mask lacking among others is an error.
    bare = {case.case_id for part in cases.values() if not any(c.label for c in part) for case in part}
    kept = keep_usable(every, root, require_labels, bare, notes, "<image>_segmentation.png")
    facts: dict[str, Any] = {
        "name": name, "root": root, "cases": kept, "modality": "dermoscopy", "licence": licence,
        "mask_values": {255: 1}, "official_split": split_of(cases, notes), "notes": notes,
    }  # fmt: skip
    if not channel or classes is None:
        return Dataset(label_names=dict(LESION), **facts)
    values: dict[str, int] = {}
    for key, part in parts.items():
        if cases.get(key):
            values |= _class_values(root, part, classes, cases[key])
    return LesionDataset(label_names=dict(classes.names), class_values=values, **facts)


def _class_values(root: Path, part: Part, table: ClassTable, cases: list[Case]) -> dict[str, int]:
    """{case id: label value} of one part."""
    places = (root / part.classes, root / part.images / part.classes)
    file = next((place for place in places if place.is_file()), None)
    if file is None:
        raise DataError(
            "lacks the classes of its lesions", file=places[0], expected="the CSV file of the challenge's part 3",
            found="no such file", hint="download it beside the images, or leave data.channel empty",
        )  # fmt: skip
    numbers = {name: value for value, name in table.names.items()}
    values: dict[str, int] = {}
    for row in read_table(file, table.columns, has_header=table.has_header):
        name = table.class_of(row)
        if name is None:
            raise DataError(
                "is damaged", file=file, expected="a class in each row", found=",".join(row.values()),
                hint="download it again",
            )  # fmt: skip
        case_id = row[table.columns[0]]
        if values.setdefault(case_id, numbers[name]) != numbers[name]:
            raise DataError(
                "gives an image two classes", file=file, expected="one class for each image",
                found=f"{case_id}: {table.names[values[case_id]]} and {name}", hint="download it again",
            )  # fmt: skip
    lacking = [case.case_id for case in cases if case.case_id not in values]
    if lacking:
        raise DataError(
            "does not say the class of every image", file=file, expected="a row for each image",
            found=f"none for {some(lacking)}", hint="download it again",
        )  # fmt: skip
    return values
