"""What layouts of volumes share: finding files by their names, and refusing sets in which some are missing."""

from __future__ import annotations

import re
from collections.abc import Collection
from pathlib import Path

from ...errors import DataError
from ..sample import Case
from .files import is_listed, some


def files_by_id(folder: Path, pattern: str) -> dict[str, Path]:
    """{first group of the pattern: file} of the files whose whole name matches, by id; {} if there is no such folder.

    Raises:
        DataError: two files of one id, such as a.nii beside a.nii.gz.
    """
    found: dict[str, Path] = {}
    for path in sorted(folder.iterdir()) if folder.is_dir() else ():
        match = re.fullmatch(pattern, path.name)
        if match is None or not is_listed(path):
            continue
        if match[1] in found:
            raise DataError(
                f"holds two files of '{match[1]}'",
                file=folder,
                expected="one file for each name",
                found=f"{found[match[1]].name} and {path.name}",
                hint="remove one of them",
            )
        found[match[1]] = path
    return dict(sorted(found.items()))


def folders_by_id(folder: Path, pattern: str) -> dict[str, Path]:
    """{folder name: folder} of the folders in a folder whose whole name matches, by name; {} if there is none."""
    entries = folder.iterdir() if folder.is_dir() else ()
    return {entry.name: entry for entry in sorted(entries) if re.fullmatch(pattern, entry.name) and entry.is_dir()}


def refuse_channel(channel: str, root: Path) -> None:
    """Raises DataError if a channel is asked for in a data set whose images have one."""
    if channel not in ("", "0"):
        raise DataError(
            "has images of one channel", file=root, expected="no channel, or 0", found=channel,
            hint="leave data.channel empty",
        )  # fmt: skip


def refuse_lacking(problem: str, root: Path, lacking: Collection[str], expected: str, hint: str) -> None:
    """Raises DataError if anything is lacking; the first few are named."""
    if lacking:
        raise DataError(
            problem, file=root, expected=expected, found=f"{len(lacking)} lacking: {some(sorted(lacking))}", hint=hint
        )


def note_lacking(lacking: Collection[str], num_cases: int, notes: list[str]) -> None:
    """Say in the notes which cases have no label map; nothing if all lack one, as images to predict do."""
    if 0 < len(lacking) < num_cases:
        notes.append(
            f"No label map for {len(lacking)} of {num_cases} images ({some(sorted(lacking))}): nothing is learned from "
            "them, and they are not scored."
        )


def keep_usable(
    cases: list[Case], root: Path, require_labels: bool, unlabelled: Collection[str], notes: list[str], expected: str
) -> list[Case]:
    """The cases that a layout gives: all of them, or with `require_labels` those with a reference.

    Args:
        unlabelled: ids of cases that are distributed without a reference (the challenge's test set); left out with a
            note where labels are required.
        notes: told of cases that lack a reference that they should have, where labels are not required.
        expected: how a label file is called.

    Raises:
        DataError: labels are required and a case that should have one has none.
    """
    lacking = [case.case_id for case in cases if not case.has_reference and case.case_id not in unlabelled]
    if not require_labels:
        note_lacking(lacking, len(cases), notes)
        return cases
    refuse_lacking(
        "has images without a label map", root, lacking, expected,
        "add the label files, or open the data set with require_labels=False",
    )  # fmt: skip
    kept = [case for case in cases if case.has_reference]
    if len(kept) < len(cases):
        left_out = [case.case_id for case in cases if not case.has_reference]
        notes.append(f"Left out, as they come without labels: {some(left_out)}.")
    return kept
