"""AMOS 2022: abdominal CT and MR with 15 organs.

Accepted: amos22.zip (Zenodo 7262581) as unpacked: the folder amos22 or the one above it. CT ids are those up to 500, MR
ids those above: 500 CT and 100 MR scans have the ids 1 to 600 (readme.md of the data set says "less than 500", but
amos_0500 is a CT). The test scans have no labels; the published scores of organs are on the
labelled validation scans, so these are the test part here, and validation cases for choosing a checkpoint are drawn
from the training scans. No two scans are of one patient (the challenge's description).
"""

from __future__ import annotations

from pathlib import Path

from ...errors import DataError
from ..sample import Case
from .base import Dataset
from .completeness import files_by_id, keep_usable, refuse_lacking
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
    10: "pancreas",
    11: "right adrenal gland",
    12: "left adrenal gland",
    13: "duodenum",
    14: "bladder",
    15: "prostate or uterus",
}
LICENCE = "CC BY-NC-SA (the paper's record on OpenReview); see also the Zenodo record"

INFO = LayoutInfo(
    title="AMOS 2022: abdominal multi-organ segmentation",
    recognised_by="imagesTr/amos_0001.nii.gz beside labelsTr/",
    example="""\
SET/amos22/
  dataset.json                {"labels": {"1": "spleen", ...}, "training": [...], "validation": [...], "test": [...]}
  imagesTr/amos_0001.nii.gz   labelsTr/amos_0001.nii.gz
  imagesVa/amos_0008.nii.gz   labelsVa/amos_0008.nii.gz
  imagesTs/amos_0002.nii.gz   no labels""",
    labels=LABELS,
    modality="CT, MRI",
    licence=LICENCE,
    where="https://zenodo.org/records/7262581 (amos22.zip); challenge: https://amos22.grand-challenge.org",
    size="500 CT and 100 MR of as many patients; labelled: 200 + 40 (Tr) and 100 + 20 (Va); 24 GB",
    split="train: Tr; test: Va, the labelled validation scans (Ts has no labels)",
    citation="Ji et al., AMOS: A Large-Scale Abdominal Multi-Organ Benchmark for Versatile Medical Image Segmentation, "
    "NeurIPS Datasets and Benchmarks (2022), doi:10.48550/arXiv.2206.08023",
    channels=("ct", "mr", "both"),
)

LAST_CT = 500
_PLACES = (".", "amos22", "amos22/amos22")
_NAME = r"(amos_\d{4})\.nii(?:\.gz)?"
_PARTS = {"train": "Tr", "test": "Va"}


def detect(root: Path) -> bool:
    return _find(root) is not None


def _find(root: Path) -> Path | None:
    for place in _PLACES:
        base = root / place
        if (base / "labelsTr").is_dir() and files_by_id(base / "imagesTr", _NAME):
            return base
    return None


def load(root: Path, *, require_labels: bool = True, channel: str = "") -> Dataset:
    """See `open_dataset`; `channel` is "ct" (the default), "mr" or "both".

    Raises:
        DataError: no such folders, another channel, labels without image or images without label, or a dataset.json
            that is damaged or names other labels.
    """
    base = _find(root)
    if base is None:
        raise DataError(
            "is not AMOS 2022 as it is distributed",
            file=root,
            expected="imagesTr/amos_0001.nii.gz beside labelsTr/",
            found=some(sorted(entry.name for entry in root.iterdir())) or "an empty folder",
            hint="unpack amos22.zip, and give the folder amos22",
        )
    kinds = _kinds(channel, root)
    notes = _check_index(base)
    cases: list[Case] = []
    split: dict[str, list[str]] = {}
    for part, ending in _PARTS.items():
        images, labels = (files_by_id(base / f"{folder}{ending}", _NAME) for folder in ("images", "labels"))
        refuse_lacking(
            "has labels without an image", base / f"images{ending}", set(labels) - set(images),
            f"images{ending}/amos_0001.nii.gz for labels{ending}/amos_0001.nii.gz",
            "copy the missing images; amos22.zip holds them",
        )  # fmt: skip
        found = [Case(name, path, labels.get(name)) for name, path in images.items() if kind_of(name) in kinds]
        split[part] = [case.case_id for case in found if case.has_reference]
        cases += found
    unlabelled = {name: path for name, path in files_by_id(base / "imagesTs", _NAME).items() if kind_of(name) in kinds}
    cases += [Case(name, path) for name, path in unlabelled.items()]
    if not cases:
        raise DataError(
            f"holds no {' or '.join(kinds).upper()} scans",
            file=base,
            expected="ids up to amos_0500 for CT, above for MR",
            found=some(sorted(files_by_id(base / "imagesTr", _NAME))),
            hint="set data.channel to ct, mr or both",
        )
    expected = "labelsTr/amos_0001.nii.gz for imagesTr/amos_0001.nii.gz"
    cases = keep_usable(cases, root, require_labels, unlabelled, notes, expected)
    if not channel:
        notes.append("The CT scans are read, as in the paper; data.channel takes mr or both.")
    return Dataset(
        name="AMOS 2022",
        root=root,
        cases=cases,
        label_names=dict(LABELS),
        modality=" and ".join({"ct": "CT", "mr": "MRI"}[kind] for kind in kinds),
        licence=LICENCE,
        official_split=split if all(split.values()) else None,
        intensity="ct:soft-tissue" if kinds == ("ct",) else "percentile",
        orientation="LPS",
        notes=notes,
    )


def kind_of(case_id: str) -> str:
    """ "ct" or "mr", by the number of a case."""
    return "ct" if int(case_id.removeprefix("amos_")) <= LAST_CT else "mr"


def _kinds(channel: str, root: Path) -> tuple[str, ...]:
    kinds = {"": ("ct",), "ct": ("ct",), "mr": ("mr",), "mri": ("mr",), "both": ("ct", "mr")}.get(channel.lower())
    if kinds is None:
        raise DataError(
            "does not have the wanted channel", file=root, expected="ct, mr or both", found=channel,
            hint="set data.channel to one of them; empty is ct",
        )  # fmt: skip
    return kinds


def _check_index(base: Path) -> list[str]:
    """Notes on dataset.json, where there is one; the folders say which scans there are."""
    file = base / "dataset.json"
    if not file.is_file():
        return []
    content = read_json_object(file)
    values = content.get("labels")
    numbers = {str(value) for value in values} - {"0"} if isinstance(values, dict) else set()
    if numbers != {str(value) for value in LABELS}:
        raise DataError(
            "names other labels than AMOS 2022 has",
            file=file,
            expected='"labels" with "1" to "15"',
            found=some(sorted(numbers)) or repr(values),
            hint="--layout msd reads a set of another make by its dataset.json",
        )
    listed = sum(len(content[key]) for key in ("training", "validation") if isinstance(content.get(key), list))
    there = sum(len(files_by_id(base / f"images{ending}", _NAME)) for ending in _PARTS.values())
    return [f"dataset.json lists {listed} labelled scans, and {there} are there."] if listed != there else []
