"""The HDF5 form of ACDC that SSL4MIS spreads; see `acdc.py`."""

from __future__ import annotations

import re
from pathlib import Path

from ...errors import DataError
from ..sample import Case
from .completeness import files_by_id, refuse_lacking
from .files import some

_PLACES = (".", "ACDC", "data/ACDC")
_FRAME = r"patient\d{3}_frame\d{2}"
_SLICE = rf"{_FRAME}_slice_\d+"
# Of train.list, which some copies have, nothing is needed: it names the frames that train_slices.list has slices of.
_LISTS = {"train": "train_slices.list", "val": "val.list", "test": "test.list"}


def find_h5(root: Path) -> Path | None:
    """The folder that holds data/ with the files."""
    for place in _PLACES:
        data = root / place / "data"
        if files_by_id(data, rf"({_FRAME})\.h5") or files_by_id(data / "slices", rf"({_SLICE})\.h5"):
            return root / place
    return None


def load_h5(base: Path, notes: list[str]) -> tuple[list[Case], dict[str, list[str]]]:
    """Cases, and the split of the lists that are there, by case id.

    Raises:
        DataError: a list that is damaged, or names files that are not there.
    """
    volumes = files_by_id(base / "data", rf"({_FRAME})\.h5")
    slices = files_by_id(base / "data" / "slices", rf"({_SLICE})\.h5")
    alone = {name: path for name, path in slices.items() if _frame_of(name) not in volumes}
    files = volumes | dict(sorted(alone.items(), key=lambda item: (_frame_of(item[0]), _number_of(item[0]))))
    cases = [Case(name, path, path, name.partition("_")[0]) for name, path in files.items()]
    split: dict[str, list[str]] = {}
    for part, name in _LISTS.items():
        if not (base / name).is_file():
            continue
        names = _read_list(base / name)
        lacking = {each for each in names if each not in slices and _frame_of(each) not in volumes}
        refuse_lacking(
            "names cases that are not there", base / name, lacking, "files in data/ or data/slices/",
            "unpack the whole archive; a list of your own may be shorter",
        )  # fmt: skip
        frames = dict.fromkeys(map(_frame_of, names))
        split[part] = [case for case in files if _frame_of(case) in frames]
    parts = {part: set(ids) for part, ids in split.items()}
    twice = {case for case in files if sum(case in ids for ids in parts.values()) > 1}
    if twice:
        raise DataError(
            "has lists that share cases", file=base, expected="each case in one list", found=some(sorted(twice)),
            hint="mend the lists",
        )  # fmt: skip
    if alone:
        notes.append(f"{len(alone)} cases are single slices: of their frames there is no volume.")
    notes.append("The HDF5 files say nothing of voxel sizes: distances and volumes are in voxels, not in mm.")
    return cases, split


def _frame_of(name: str) -> str:
    return name.partition("_slice_")[0]


def _number_of(name: str) -> int:
    return int(name.partition("_slice_")[2] or 0)


def _read_list(file: Path) -> list[str]:
    names = [line.strip() for line in file.read_text(encoding="utf-8", errors="replace").splitlines() if line.strip()]
    wrong = [name for name in names if not re.fullmatch(rf"(?:{_SLICE}|{_FRAME})(?:\.h5)?", name)]
    if wrong or not names:
        raise DataError(
            "is no list of ACDC cases",
            file=file,
            expected="lines such as patient001_frame01 or patient001_frame01_slice_1",
            found=some([name[:60] for name in wrong]) or "no lines",
            hint="copy it again from SSL4MIS, data/ACDC",
        )
    return [name.removesuffix(".h5") for name in names]
