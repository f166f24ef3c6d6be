"""Which files of a folder are images to learn from."""

from __future__ import annotations

import fnmatch
import os
import re
from pathlib import Path

from medsam_adapter.data.io import NIFTI_SUFFIXES, PICTURE_SUFFIXES, stem
from medsam_adapter.data.splits import load_split
from medsam_adapter.errors import DataError

SUFFIXES = NIFTI_SUFFIXES + PICTURE_SUFFIXES
# As the layouts of data/ have them, too: REFUGE's gts, DDTI's p_mask, KiTS's instances, ...
REFERENCE_FOLDERS = {
    "label", "labelstr", "labelsts", "labelsva", "p_mask", "disc_cup_masks", "riga-mask", "instances"
}  # fmt: skip
_WORDS = r"masks?|segs?|segmentations?|gts?|ground[_-]?truths?|annotations?"
# "labels_train" and "train_masks"; no class folders such as "label_0", and no "images_without_masks".
_FOLDER = re.compile(rf"(?:{_WORDS}|labels)(?:[_-]\D.*)?|.*(?<!without)(?<!no)[_-](?:{_WORDS}|labels)")
# "mask_01" and "a_mask_1"; a number behind "a_label" is more likely a picture's class.
_NAME = re.compile(
    rf"(?:{_WORDS}|segm|label(?![_-]free)|labels)(?:[_-].*)?"
    rf"|.*[_-](?:(?:{_WORDS}|segm|dseg|probseg)[_-]?\d*|labels?|superpixels)|superpixels"
)


def image_files_below(root: Path) -> list[str]:
    """Paths below `root` of all image files, sorted, with "/"; links are followed, hidden entries left out.

    Raises:
        DataError: no such folder.
    """
    if not root.is_dir():
        raise DataError(
            "is no folder", file=root, expected="a folder of images",
            found="a file" if root.exists() else "no such folder", hint="check the spelling of the path",
        )  # fmt: skip
    files, seen = [], set()
    for folder, folders, names in os.walk(root, followlinks=True):
        real = os.path.realpath(folder)
        if real in seen:  # a link that leads back up
            folders.clear()
            continue
        seen.add(real)
        folders[:] = sorted(name for name in folders if not name.startswith((".", "__MACOSX")))
        below = os.path.relpath(folder, root)
        files += [
            name if below == "." else f"{below}/{name}".replace(os.sep, "/")
            for name in names
            if name.lower().endswith(SUFFIXES) and not name.startswith(".")
        ]
    return sorted(files)


def is_reference(file: str) -> bool:
    """Whether a file looks like a mask by its name or its folder."""
    *folders, name = file.lower().split("/")
    name = stem(name)
    is_among_references = any(folder in REFERENCE_FOLDERS or _FOLDER.fullmatch(folder) for folder in folders)
    return is_among_references or bool(_NAME.fullmatch(name))


def without(files: list[str], patterns: list[str], root: Path) -> list[str]:
    """The files that no pattern matches. Raises DataError for a pattern that matches none."""
    left_out: set[str] = set()
    for pattern in patterns:
        matching = {
            file
            for file in files
            if any(fnmatch.fnmatchcase(text, pattern) for text in (file, Path(file).name, stem(file)))
        }
        # A typing error here would let test cases into the training.
        if not matching:
            raise DataError(
                "a pattern of `exclude` matches nothing", file=root, expected="a pattern of file names such as test/*",
                found=repr(pattern), hint=f"files are named as {files[0]}" if files else None,
            )  # fmt: skip
        left_out |= matching
    return [file for file in files if file not in left_out]


def of_part(files: list[str], cases: str, part: str, root: Path) -> list[str]:
    """The files whose case is in a part of a split file. Raises DataError where there are none or there is no part."""
    split = load_split(cases)
    if part not in split:
        raise DataError(
            f"has no part {part!r}", file=cases, expected=f"one of {', '.join(split)}", found=part, hint="set `part`"
        )
    wanted = set(split[part])
    taken = [file for file in files if wanted & _case_ids(file)]
    if not any(not is_reference(file) for file in taken):
        raise DataError(
            f"holds no file of part {part!r} of {cases}", file=root, expected=f"files called {split[part][:3]} ...",
            found=str([stem(file) for file in files[:3]]), hint="check that the split belongs to this folder",
        )  # fmt: skip
    return taken


def _case_ids(file: str) -> set[str]:
    name = stem(file)
    folder = file.rpartition("/")[0]
    ids = {name, f"{folder}/{name}" if folder else name}
    if len(name) > 5 and name[-5] == "_" and name[-4:].isdigit():  # nnU-Net: one file a channel, <case>_0000
        ids.add(name[:-5])
    return ids
