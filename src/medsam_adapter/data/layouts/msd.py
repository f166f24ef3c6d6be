"""Data sets with a `dataset.json`: Medical Segmentation Decathlon, and nnU-Net (raw).

MSD: "labels": {"1": "name"}, "training": [{"image": ..., "label": ...}], channels as a fourth axis of one file.
nnU-Net v2: "labels": {"name": 1}, "file_ending", imagesTr/<case>_0000<ending> with one file a channel, labelsTr/<case>.
nnU-Net v1: as MSD, with one file a channel: imagesTr/a_0000.nii.gz for the listed imagesTr/a.nii.gz.
Test images (imagesTs) have no labels and are not cases here.
"""

from __future__ import annotations

import re
from pathlib import Path

from ...errors import DataError
from ..io import stem
from ..safe_names import inside
from ..sample import Case
from .base import Dataset
from .completeness import keep_usable, refuse_lacking
from .files import image_files, read_json_object, some, text_of
from .info import LayoutInfo

INFO = LayoutInfo(
    title="Any data set with a dataset.json: Medical Segmentation Decathlon, nnU-Net v2 (raw)",
    recognised_by="a file dataset.json",
    example="""\
SET/
  dataset.json        {"modality": {"0": "CT"}, "labels": {"0": "background", "1": "liver"},
                       "training": [{"image": "imagesTr/a.nii.gz", "label": "labelsTr/a.nii.gz"}, ...]}
  imagesTr/a.nii.gz
  labelsTr/a.nii.gz
or, as nnU-Net v2 writes it:
  dataset.json        {"channel_names": {"0": "CT"}, "labels": {"background": 0, "liver": 1},
                       "numTraining": 1, "file_ending": ".nii.gz"}
  imagesTr/a_0000.nii.gz
  labelsTr/a.nii.gz""",
    licence="of the task; the Decathlon's ten are CC BY-SA 4.0",
    where="http://medicaldecathlon.com",
    split="none with labels: imagesTr is split by patient, imagesTs has no labels",
    citation="Antonelli et al., The Medical Segmentation Decathlon, Nat. Commun. 13, 4128 (2022), "
    "doi:10.1038/s41467-022-30695-9",
    channels=("the names or numbers in dataset.json",),
)


def detect(root: Path) -> bool:
    return (root / "dataset.json").is_file()


def load(root: Path, *, require_labels: bool = True, channel: str = "") -> Dataset:
    """See `open_dataset`. Raises DataError for a dataset.json of neither MSD nor nnU-Net, or a label without image."""
    file = root / "dataset.json"
    content = read_json_object(file)
    notes: list[str] = []
    channels = content.get("modality", content.get("channel_names", {}))
    channels = channels if isinstance(channels, dict) else {}
    number = {str(name): key for key, name in channels.items()}.get(channel, channel or "0")
    if not number.isdigit() or (channels and number not in channels):
        raise DataError(
            "does not have the wanted channel",
            file=file,
            expected="one of " + (", ".join(f"{key} ({name})" for key, name in channels.items()) or "0, 1, ..."),
            found=channel,
        )
    modality = channels.get(number, content.get("modality") if isinstance(content.get("modality"), str) else None)
    if len(channels) > 1:
        notes.append(
            f"Images have {len(channels)} channels; channel {number} ({modality}) is read, the others are not."
        )
    is_msd = "training" in content  # or nnU-Net v1
    cases = _msd_cases(root, content, int(number)) if is_msd else _nnunet_cases(root, content, int(number))
    is_in_one_file = is_msd and all(stem(case.image) == case.case_id for case in cases)
    if content.get("numTraining") not in (None, len(cases)):
        notes.append(f"dataset.json says numTraining {content['numTraining']}, and there are {len(cases)} cases.")
    cases = keep_usable(cases, root, require_labels, (), notes, "a label for each image")
    return Dataset(
        name=str(content.get("name") or root.resolve().name),
        root=root,
        cases=cases,
        label_names=_label_names(content, file),
        modality=modality,
        intensity="ct:soft-tissue" if str(modality).upper() == "CT" else None,
        licence=content.get("licence", content.get("license")),
        channel=int(number) if is_in_one_file and len(channels) > 1 else None,
        notes=notes,
    )


def _label_names(content: dict, file: Path) -> dict[int, str]:
    labels = content.get("labels")
    if not isinstance(labels, dict) or not labels:
        raise DataError(
            "names no labels",
            file=file,
            expected='"labels": {"0": "background", "1": "liver"} or {"background": 0, "liver": 1}',
            found=repr(labels),
        )
    names: dict[int, str] = {}
    for key, value in labels.items():
        number, name = (value, key) if isinstance(value, int) else (key, value)
        try:
            whole = int(number)
        except (TypeError, ValueError):
            raise DataError(
                f"label '{key}' is not one whole number",
                file=file,
                expected='"1": "liver" or "liver": 1',
                found=f"{key!r}: {value!r}",
                hint="region-based nnU-Net labels (lists of numbers) are not supported: name each number by itself",
            ) from None
        if str(name) == "ignore":
            raise DataError(
                "has a label 'ignore'", file=file, expected="labels that are all annotated",
                found=f"{key!r}: {value!r}",
                hint="voxels that count neither way are not supported: leave such cases out, or make them background",
            )  # fmt: skip
        if whole in names or str(name) in names.values():
            raise DataError(
                "names a label twice", file=file, expected="one name for each number, and one number for each name",
                found=f"{key!r}: {value!r} besides " + ", ".join(f"{n}: {names[n]}" for n in sorted(names)),
            )  # fmt: skip
        names[whole] = str(name)
    names.pop(0, None)
    return dict(sorted(names.items()))


def _msd_cases(root: Path, content: dict, channel: int) -> list[Case]:
    cases = []
    if not isinstance(content["training"], list):
        raise DataError(
            "has a training list that is none", file=root / "dataset.json", expected="[...]",
            found=repr(content["training"])[:80],
        )  # fmt: skip
    for number, entry in enumerate(content["training"]):
        entry = {"image": entry} if isinstance(entry, str) else entry
        if not isinstance(entry, dict) or "image" not in entry:
            raise DataError(
                f"entry {number} of the training list names no image",
                file=root / "dataset.json",
                expected='{"image": "./imagesTr/a.nii.gz", "label": "./labelsTr/a.nii.gz"}',
                found=repr(entry),
            )
        image = inside(root, entry["image"], root / "dataset.json")
        label = inside(root, entry["label"], root / "dataset.json") if entry.get("label") else None
        patient = entry.get("patient")
        patient = "" if patient is None else str(patient)
        cases.append(Case(stem(image), _file_of_channel(image, channel), label, patient))
    if not cases or not any(case.image.exists() for case in cases):
        raise DataError(
            "lists no image that is there",
            file=root / "dataset.json",
            expected="image files below the data set's folder",
            found=some([str(case.image) for case in cases]) or "an empty training list",
            hint="unpack imagesTr and labelsTr beside dataset.json",
        )
    return cases


def _file_of_channel(image: Path, channel: int) -> Path:
    """The listed file, or where there is none that of nnU-Net v1 for the channel."""
    name = stem(image)
    other = image.with_name(f"{name}_{channel:04d}{image.name[len(name) :]}")
    return other if other.exists() and not image.exists() else image


def _nnunet_cases(root: Path, content: dict, channel: int) -> list[Case]:
    folder, ending = root / "imagesTr", text_of(content, "file_ending", root / "dataset.json")
    files = (
        [path for path in image_files(folder) if not ending or path.name.endswith(ending)] if folder.is_dir() else []
    )
    matches = [(path, re.fullmatch(r"(.+)_(\d{4})", stem(path))) for path in files]
    by_case: dict[str, dict[int, Path]] = {}
    for path, match in matches:
        if match:
            by_case.setdefault(match[1], {})[int(match[2])] = path
    lacking = [name for name, channels in by_case.items() if channel not in channels]
    if not by_case or lacking:
        raise DataError(
            f"has no channel {channel} for every case",
            file=folder,
            expected=f"files <case>_{channel:04d}{ending or '.nii.gz'}, or a training list in dataset.json",
            found=f"none for {some(lacking)}" if lacking else some([path.name for path in files]) or "no images",
            hint="check file_ending in dataset.json and the names in imagesTr",
        )
    labels = {stem(path): path for path in image_files(root / "labelsTr")} if (root / "labelsTr").is_dir() else {}
    refuse_lacking(
        "has labels without an image", folder, set(labels) - set(by_case),
        f"files <case>_{channel:04d}{ending or '.nii.gz'} for labelsTr/<case>", "copy the missing images",
    )  # fmt: skip
    return [Case(name, channels[channel], labels.get(name)) for name, channels in sorted(by_case.items())]
