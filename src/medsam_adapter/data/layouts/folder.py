"""Data sets of two folders: images/ beside masks/ or labels/, matched by file name.

A mask is named as its image, or as its image plus one suffix that all masks share (`ISIC_1_segmentation.png`). An
image is a file of any kind that `io.read_scan` reads, or a folder in images/ with the files of one DICOM series, which
is one case of the folder's name. Without masks/ or labels/, an .npz or .h5 file in images/ that holds an array called
as `arrays.LABEL_KEYS` say ("label") beside the image is a case with its label map.

An optional `labels.json` says what mask values mean: {"1": "liver"}, {"255": "lesion"} or {"0,255,0": "benign"}. It may
also hold "mask_suffix", "instances": true, "patients": {case id: patient id}, "name", "modality" and "licence"; other
keys are free text. Values other than 1..K, and colours, become labels 1..K in the order of the file; two entries with
one name become one label.
"""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from pathlib import Path

import numpy as np

from ...errors import DataError
from ..arrays import holds_label
from ..io import is_dicom_folder, read_label, stem
from ..kinds import has_suffix
from ..sample import Case
from .base import Dataset
from .completeness import note_lacking
from .files import image_files, read_json_object, some, text_of
from .info import LayoutInfo

INFO = LayoutInfo(
    title="Your own data: images/ beside masks/ or labels/, matched by file name",
    recognised_by="a folder images/ beside masks/ or labels/, or images/ with .npz or .h5 files",
    example="""\
SET/
  images/a.png        .png, .jpg, .tif, .bmp, .nii.gz, .nii, .mha, .nrrd, .npz, .h5, .dcm
  images/b/           or the files of one DICOM series in a folder
  images/c.npz        arrays "image" and "label": such files need no masks/
  masks/a.png         or masks/a_mask.png: one suffix behind all names; kinds of files may differ from the images'
  labels.json         may be left out: {"1": "lesion", "patients": {"a": "patient 7"}}""",
    licence="yours; name it in labels.json",
    split="none: split by patient",
)

MASK_FOLDERS = ("masks", "labels")
# Files that may hold an image and its label map.
_SELF_CONTAINED = (".npz", ".h5", ".hdf5")
# More values than any organ scheme has, numbered without gaps in each file: objects, not classes.
_MIN_INSTANCE_VALUES = 20


def detect(root: Path) -> bool:
    if not (root / "images").is_dir():
        return False
    return any((root / name).is_dir() for name in MASK_FOLDERS) or any(
        has_suffix(path, _SELF_CONTAINED) for path in image_files(root / "images")
    )


def load(root: Path, *, require_labels: bool = True, channel: str = "") -> Dataset:
    """See `open_dataset`. Reads the masks too where there is no labels.json to say which values they have.

    Raises:
        DataError: no images, names that do not match, or a labels.json that cannot be understood.
    """
    if channel not in ("", "0"):
        raise DataError("images in a plain folder have one channel", file=root, expected="channel=0", found=channel)
    content = read_json_object(root / "labels.json") if (root / "labels.json").is_file() else {}
    mask_folder = next((root / name for name in MASK_FOLDERS if (root / name).is_dir()), None)
    is_self_contained = mask_folder is None and detect(root)
    if not (root / "images").is_dir() or (mask_folder is None and require_labels and not is_self_contained):
        raise DataError(
            "is not in the folder layout",
            file=root,
            expected="images/ beside masks/ or labels/, or images/ with .npz or .h5 files that hold both",
            found=some(sorted(entry.name for entry in root.iterdir())) or "an empty folder",
        )
    images = _by_stem(root / "images")
    masks = _by_stem(mask_folder) if mask_folder else {}
    if is_self_contained:
        masks = {name: path for name, path in images.items() if _is_labelled(path)}
    paired = _pair(images, masks, text_of(content, "mask_suffix", root / "labels.json"), root, require_labels)
    patients = _patients(content.get("patients", {}), list(images), root / "labels.json")
    cases = [Case(name, path, paired.get(name), patients.get(name, "")) for name, path in images.items()]
    dataset = Dataset(
        name=str(content.get("name") or root.resolve().name),
        root=root,
        cases=cases,
        modality=content.get("modality"),
        licence=content.get("licence", content.get("license")),
    )
    note_lacking([case.case_id for case in cases if case.label is None], len(cases), dataset.notes)
    if content.get("instances") is True:
        dataset.instances = True
    elif not _names_from_json(dataset, content, root / "labels.json"):
        _names_from_masks(dataset)
    return dataset


def _patients(content: object, names: list[str], file: Path) -> dict[str, str]:
    """{image stem: patient}. A name that is not understood would let a patient be on both sides of a split."""
    form = '{"image name without suffix": "patient", ...}'
    if not isinstance(content, dict) or any(not isinstance(p, str | int) or p == "" for p in content.values()):
        raise DataError(
            '"patients" is not understood', file=file, expected=form, found=repr(content)[:80],
            hint="a patient is a text or a whole number",
        )  # fmt: skip
    content = {_same_form(name): patient for name, patient in content.items()}
    known = set(names)
    strange = [name for name in content if name not in known]
    unnamed = [name for name in names if name not in content]
    if strange and unnamed:  # a table of more images than are here is no error if all of these are in it
        raise DataError(
            'has "patients" of other images than the folder', file=file, expected=form,
            found=f"{some(strange)}, and none for {some(unnamed)}", hint="write the names as the files have them",
        )  # fmt: skip
    return {name: str(patient) for name, patient in content.items()}


def _is_labelled(path: Path) -> bool:
    """Whether a file holds a label map beside its image."""
    try:
        return has_suffix(path, _SELF_CONTAINED) and holds_label(path)
    except DataError:
        return True  # check_dataset reports a broken file; it must not keep the set from opening


def _same_form(name: str) -> str:
    """macOS may write an umlaut as two characters where others write one."""
    return unicodedata.normalize("NFC", name)


def _by_stem(folder: Path) -> dict[str, Path]:
    found = [(_same_form(stem(path)), path) for path in image_files(folder)]
    found += [
        (_same_form(path.name), path)
        for path in folder.iterdir()
        if not path.name.startswith(".") and is_dicom_folder(path)
    ]
    found.sort()
    doubles = [name for name, count in Counter(name for name, _ in found).items() if count > 1]
    if doubles:
        raise DataError(
            "has files that differ only in their suffix",
            file=folder,
            expected="one file or DICOM folder for each name",
            found=some(doubles),
            hint="rename or remove the doubles",
        )
    return dict(found)


def _pair(
    images: dict[str, Path], masks: dict[str, Path], suffix: str | None, root: Path, require_labels: bool
) -> dict[str, Path]:
    """{image stem: mask file}"""
    if not images:
        raise DataError(
            "holds no images", file=root / "images", expected="images, or folders of DICOM files", found="none"
        )
    suffix = _shared_suffix(images, masks) if suffix is None else _same_form(suffix)
    paired = {name: masks[name + suffix] for name in images if name + suffix in masks}
    strangers = sorted(set(masks) - {name + suffix for name in images})
    lacking = sorted(set(images) - set(paired))
    if strangers or (lacking and require_labels):
        found = [f"{len(strangers)} masks without image: {some(strangers)}"] if strangers else []
        found += [f"{len(lacking)} images without mask: {some(lacking)}"] if lacking else []
        raise DataError(
            "has images and masks whose names do not match",
            file=root,
            expected=f"a mask named <image>{suffix} for each image",
            found="; ".join(found),
            hint='rename them, or give "mask_suffix" in labels.json'
            + ("" if strangers else "; require_labels=False allows images without mask"),
        )
    return paired


def _shared_suffix(images: dict[str, Path], masks: dict[str, Path]) -> str:
    """What most masks have behind their image's name: "" or such as "_mask"."""
    found: Counter[str] = Counter()
    for mask in masks:
        name = mask if mask in images else next((mask[:n] for n in range(len(mask), 0, -1) if mask[:n] in images), None)
        rest = mask[len(name) :] if name is not None else None
        # "10_mask" must not read as image "1" with suffix "0_mask".
        if rest is not None and (rest == "" or re.match(r"[_\-. ]\w", rest)):
            found[rest] += 1
    return found.most_common(1)[0][0] if found else ""


def _names_from_json(dataset: Dataset, content: dict, file: Path) -> bool:
    """Sets names and values from labels.json; False if it says nothing of values."""
    values = {int(key): str(name) for key, name in content.items() if re.fullmatch(r"\s*\d+\s*", key)}
    colours = {
        tuple(int(part) for part in key.split(",")): str(name)
        for key, name in content.items()
        if re.fullmatch(r"\s*\d+\s*,\s*\d+\s*,\s*\d+\s*", key)
    }
    if values and colours:
        raise DataError(
            "names both values and colours",
            file=file,
            expected='either "1": "name" or "r,g,b": "name"',
            found=some([*map(str, values), *map(str, colours)]),
        )
    if any(max(colour) > 255 for colour in colours):
        raise DataError(
            "names a colour above 255", file=file, expected="r, g and b from 0 to 255", found=str([*colours])
        )
    values.pop(0, None)
    colours.pop((0, 0, 0), None)
    if colours:
        dataset.colours, dataset.label_names = _numbered(colours)
    elif values:
        _set_values(dataset, dict(sorted(values.items())))
    return bool(values or colours)


def _numbered(meanings: dict) -> tuple[dict, dict[int, str]]:
    """{key: name} -> ({key: 1..K}, {1..K: name}), equal names sharing a number."""
    names = list(dict.fromkeys(meanings.values()))
    return {key: names.index(name) + 1 for key, name in meanings.items()}, dict(enumerate(names, start=1))


def _set_values(dataset: Dataset, values: dict[int, str]) -> None:
    numbers, dataset.label_names = _numbered(values)
    if any(value != number for value, number in numbers.items()):
        dataset.mask_values = numbers


def _names_from_masks(dataset: Dataset) -> None:
    """Concludes the labels from the values of all masks and says so in the notes."""
    values: set[int] = set()
    is_numbered = True  # every file holds 1..N without gaps
    for case in dataset.cases:
        if case.label is None:
            continue
        try:
            in_file = [int(value) for value in np.unique(read_label(case.label)) if value]
        except DataError as error:
            if "codes its labels as colours" in error.problem:
                raise
            continue  # check_dataset reports a broken file; it must not keep the set from opening
        is_numbered &= in_file == list(range(1, len(in_file) + 1))
        values.update(in_file)
    if len(values) >= _MIN_INSTANCE_VALUES and is_numbered:
        dataset.instances = True
        dataset.notes.append(
            f"Masks number up to {max(values)} objects an image, so they are read as instances: each object is a label "
            "of its own image and has no class. Name the values in labels.json if they are classes, or write "
            '"instances": true there to skip this look at all masks.'
        )
        return
    is_single = len(values) == 1
    _set_values(dataset, {value: "target" if is_single else f"value {value}" for value in sorted(values)})
    if values:
        meaning = ", ".join(
            f"{value} -> {name}" for value, name in zip(sorted(values), dataset.label_names.values(), strict=True)
        )
        dataset.notes.append(f"Label names are made up from the mask values ({meaning}); labels.json can name them.")
