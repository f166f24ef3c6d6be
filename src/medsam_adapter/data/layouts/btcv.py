"""Synapse BTCV: abdominal CT of the MICCAI 2015 challenge "Multi-Atlas Labeling Beyond the Cranial Vault".

Accepted: RawData.zip as unpacked (RawData/Training/img, label and Testing/img), its folder RawData or Training, the
folder above it (also Abdomen/RawData), and the form that MONAI's tutorials use (imagesTr/img0001.nii.gz beside
labelsTr/label0001.nii.gz, imagesTs). Values 1..13 as in the challenge.

A split in MONAI's form (dataset_0.json or dataset.json with lists "training" and "validation") in any of these folders
counts. Without one, and with all 30 labelled cases there, it is that of UNETR and Swin UNETR: img0035 to img0040 are
kept back (dataset_0.json of MONAI's tutorials, github.com/Project-MONAI/research-contributions, SwinUNETR/BTCV). What
they call "validation" is what they report, so it is "test" here; validation cases for choosing a checkpoint are drawn
from the others.
"""

from __future__ import annotations

import re
from pathlib import Path

from ...errors import DataError
from ..io import stem
from ..sample import Case
from .base import Dataset
from .completeness import files_by_id, keep_usable, refuse_channel, refuse_lacking
from .files import read_json_object, some
from .info import LayoutInfo

LABELS = {
    1: "spleen",
    2: "right kidney",
    3: "left kidney",
    4: "gallbladder",
    5: "esophagus",
    6: "liver",
    7: "stomach",
    8: "aorta",
    9: "inferior vena cava",
    10: "portal and splenic veins",
    11: "pancreas",
    12: "right adrenal gland",
    13: "left adrenal gland",
}
LICENCE = "terms of the challenge: registration on Synapse, research use"

INFO = LayoutInfo(
    title="BTCV: Multi-Atlas Labeling Beyond the Cranial Vault (abdomen)",
    recognised_by="Training/img/img0001.nii.gz beside label/, or imagesTr/img0001.nii.gz beside labelsTr/",
    example="""\
SET/RawData/
  Training/img/img0001.nii.gz
  Training/label/label0001.nii.gz
  Testing/img/img0061.nii.gz      no labels
or, as MONAI's tutorials lay it out:
SET/
  imagesTr/img0001.nii.gz
  labelsTr/label0001.nii.gz
  dataset_0.json                  {"training": [...], "validation": [...]}""",
    labels=LABELS,
    modality="CT",
    licence=LICENCE,
    where="https://www.synapse.org/Synapse:syn3193805 (an account and the challenge's registration; RawData.zip)",
    size="30 labelled and 20 unlabelled scans of 85 to 198 slices, 512 x 512",
    split="train 24, test 6 (img0035 to img0040), as UNETR and MONAI use them; or dataset_0.json beside the data",
    citation="Landman et al., MICCAI Multi-Atlas Labeling Beyond the Cranial Vault: Workshop and Challenge (2015), "
    "doi:10.7303/syn3193805",
)

_PLACES = (".", "Training", "RawData/Training", "RawData", "Abdomen/RawData/Training")
_PAIRS = (("img", "label"), ("imagesTr", "labelsTr"))
_IMAGE, _LABEL = r"(img\d{4})\.nii(?:\.gz)?", r"(?:label|img)(\d{4})\.nii(?:\.gz)?"
_SPLIT_FILES = ("dataset_0.json", "dataset.json")
# How else the names are written: MONAI's dataset_0.json, AMOS.
_OTHER_NAMES = {
    2: ("rkid",), 3: ("lkid",), 4: ("gall", "gall bladder"), 5: ("eso", "oesophagus"), 7: ("sto",),
    9: ("ivc", "postcava"), 10: ("veins",), 12: ("rad",), 13: ("lad",),
}  # fmt: skip
_ALL = [*range(1, 11), *range(21, 41)]
_KEPT_BACK = range(35, 41)


def detect(root: Path) -> bool:
    found = _find(root)
    return found is not None and _foreign_index(root, found[0]) is None


def _find(root: Path) -> tuple[Path, Path] | None:
    """The folders of the labelled images and of their labels."""
    for place in _PLACES:
        for images, labels in _PAIRS:
            folder = root / place / images
            if (root / place / labels).is_dir() and files_by_id(folder, _IMAGE):
                return folder, root / place / labels
    return None


def load(root: Path, *, require_labels: bool = True, channel: str = "") -> Dataset:
    """See `open_dataset`.

    Raises:
        DataError: no such folders, labels without image or images without label, a dataset.json of other labels, or a
            split file that is none.
    """
    refuse_channel(channel, root)
    found = _find(root)
    if found is None:
        raise DataError(
            "is not BTCV as it is distributed",
            file=root,
            expected="RawData/Training/img/img0001.nii.gz beside RawData/Training/label, or imagesTr beside labelsTr",
            found=some(sorted(entry.name for entry in root.iterdir())) or "an empty folder",
            hint="unpack RawData.zip of the abdomen task, and give the folder that holds RawData",
        )
    image_folder, label_folder = found
    foreign = _foreign_index(root, image_folder)
    if foreign is not None:
        file, strange = foreign
        raise DataError(
            "names other labels than BTCV has", file=file, expected='"labels" with "1": "spleen" to '
            '"13": "left adrenal gland"', found=some(strange),
            hint="--layout msd reads a set of another make by its dataset.json",
        )  # fmt: skip
    images, labels = files_by_id(image_folder, _IMAGE), files_by_id(label_folder, _LABEL)
    refuse_lacking(
        "has labels without an image", image_folder, {f"img{number}" for number in labels} - set(images),
        "img0001.nii.gz for label0001.nii.gz", "copy the missing images; RawData.zip holds them",
    )  # fmt: skip
    cases = [Case(name, path, labels.get(name.removeprefix("img"))) for name, path in images.items()]
    testing = image_folder.parent / "imagesTs"
    testing = testing if testing.is_dir() else image_folder.parent.parent / "Testing" / "img"
    unlabelled = {name: path for name, path in files_by_id(testing, _IMAGE).items() if name not in images}
    cases += [Case(name, path) for name, path in unlabelled.items()]
    notes: list[str] = []
    cases = keep_usable(cases, root, require_labels, unlabelled, notes, "label/label0001.nii.gz for img/img0001.nii.gz")
    return Dataset(
        name="BTCV",
        root=root,
        cases=cases,
        label_names=dict(LABELS),
        modality=INFO.modality,
        licence=LICENCE,
        official_split=_split(root, image_folder, {case.case_id for case in cases if case.has_reference}, notes),
        intensity="ct:soft-tissue",
        orientation="LPS",
        notes=notes,
    )


def _foreign_index(root: Path, image_folder: Path) -> tuple[Path, list[str]] | None:
    """A JSON file beside the data whose "labels" are not BTCV's, and those that are not; names of files prove little.

    A file that names some of the labels, or none, as those that only hold a split, is none.
    """
    for folder in dict.fromkeys((root, image_folder.parent)):
        for file in (folder / name for name in _SPLIT_FILES):
            labels = read_json_object(file).get("labels") if file.is_file() else None
            entries = labels.items() if isinstance(labels, dict) else ()
            strange = [f"{key!r}: {value!r}" for key, value in entries if not _is_own(key, value)]
            if strange:
                return file, strange
    return None


def _is_own(key: str, value: object) -> bool:
    """Whether an entry of "labels", {"1": "spleen"} or {"spleen": 1}, is the challenge's; background always is."""
    number, name = (value, key) if isinstance(value, int) else (key, value)
    if not str(number).isdecimal() or (int(str(number)) and int(str(number)) not in LABELS):
        return False
    number = int(str(number))
    own = (LABELS[number], *_OTHER_NAMES.get(number, ())) if number else ()
    return number == 0 or _words(str(name)) in map(_words, own)


def _words(name: str) -> set[str]:
    """Words of a name in any order, without those that are often left out: "kidney_right" is "right kidney"."""
    words = set(re.findall(r"[a-z]+", name.lower()))
    return words - {"and", "gland", "vein", "veins"} or words


def _split(root: Path, image_folder: Path, labelled: set[str], notes: list[str]) -> dict[str, list[str]] | None:
    for folder in dict.fromkeys((root, image_folder.parent, image_folder.parent.parent)):
        for name in _SPLIT_FILES:
            file = folder / name
            if file.is_file():
                content = read_json_object(file)
                if content.get("validation"):
                    notes.append(f"The split is that of {name}.")
                    return _split_of(content, file, labelled, notes)
    lacking = {f"img{number:04d}" for number in _ALL} - labelled
    if lacking:
        notes.append(
            f"Not split as UNETR splits it, which takes all {len(_ALL)} labelled scans: no label map for "
            f"{some(sorted(lacking))}."
        )
        return None
    test = [f"img{number:04d}" for number in _KEPT_BACK]
    notes.append("img0035 to img0040 are the test cases, as in UNETR and Swin UNETR, which call them validation.")
    return {"train": sorted(labelled - set(test)), "test": test}


def _split_of(content: dict, file: Path, labelled: set[str], notes: list[str]) -> dict[str, list[str]]:
    """A split of lists in MONAI's form; "validation" is the test part unless labelled cases stand under "test"."""
    listed = {part: _ids(content.get(part, []), file) for part in ("training", "validation", "test")}
    absent = {case for part in ("training", "validation") for case in listed[part]} - labelled
    if absent:
        notes.append(f"{file.name} lists {len(absent)} cases that are not there: {some(sorted(absent))}.")
    parts = {part: [case for case in ids if case in labelled] for part, ids in listed.items()}
    twice = {case for case in labelled if sum(case in ids for ids in parts.values()) > 1}
    if twice:
        raise DataError(
            "lists cases in two parts", file=file, expected="each case in one list", found=some(sorted(twice)),
            hint="mend the file, or remove it for the usual split",
        )  # fmt: skip
    if parts["test"]:
        return {"train": parts["training"], "val": parts["validation"], "test": parts["test"]}
    return {"train": parts["training"], "test": parts["validation"]}


def _ids(entries: object, file: Path) -> list[str]:
    """Case ids of a list of files, or of {"image": file}."""
    names = [
        entry.get("image") if isinstance(entry, dict) else entry
        for entry in (entries if isinstance(entries, list) else [None])
    ]
    texts = [name for name in names if isinstance(name, str)]
    if len(texts) < len(names):
        raise DataError(
            "holds no split in MONAI's form",
            file=file,
            expected='"training" and "validation": lists of {"image": "imagesTr/img0001.nii.gz", "label": ...}',
            found=repr(entries)[:80],
        )
    return list(dict.fromkeys(stem(name) for name in texts))
