"""Pictures and their masks in folders of their own, matched by name: what the layouts of picture sets share."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path

from ...errors import DataError
from ..io import stem
from ..sample import Case
from .files import image_files, some


def inner_folder(folder: Path) -> Path:
    """`folder`, or the folder of the same name in it, as many programs leave when they unpack NAME.zip to NAME/."""
    nested = folder / folder.name
    return nested if nested.is_dir() else folder


def pictures(folder: Path, ending: str = "", suffixes: tuple[str, ...] = ()) -> dict[str, Path]:
    """{file name without `ending` and file suffix: file}, in the order of the names.

    Args:
        ending: what stands behind the name, such as "_Segmentation", in any case of letters; others are left out.
        suffixes: only files that end in one of these, in lower case; all kinds of images if empty.

    Raises:
        DataError: two files of one name.
    """
    found: dict[str, Path] = {}
    doubles: list[str] = []
    for path in image_files(folder):
        name = stem(path)
        if not name.lower().endswith(ending.lower()) or (suffixes and not path.name.lower().endswith(suffixes)):
            continue
        name = name[: len(name) - len(ending)]
        doubles += [name] if name in found else []
        found[name] = path
    if doubles:
        raise DataError(
            "has files that differ only in their suffix",
            file=folder,
            expected="one file for each name",
            found=some(doubles),
            hint="rename or remove the doubles",
        )
    return found


def paired_cases(images: Mapping[str, Path], masks: Mapping[str, Path], root: Path, mask_form: str) -> list[Case]:
    """A case for each image, with the mask of that name or without one.

    Args:
        mask_form: how the file of a mask is called, such as "<image>_Segmentation.png".

    Raises:
        DataError: no images, or masks without image.
    """
    strangers = sorted(set(masks) - set(images))
    if strangers or not images:
        raise DataError(
            "has masks without their images" if images else "holds no images",
            file=root,
            expected=f"an image for each mask {mask_form}",
            found=f"{len(strangers)} masks without image: {some(strangers)}" if strangers else "no images",
            hint="unpack the archives again",
        )
    return [Case(name, path, masks.get(name)) for name, path in images.items()]


def split_of(parts: Mapping[str, Iterable[Case]], notes: list[str]) -> dict[str, list[str]] | None:
    """The official split, {part: ids of its cases with a reference}; where no test case has one, "val" is the test.

    None unless there is a part to train on and one to hold against it: a training part alone is to be split anew.
    """
    split = {part: [case.case_id for case in cases if case.has_reference] for part, cases in parts.items()}
    split = {part: ids for part, ids in split.items() if ids}
    if "test" not in split and "val" in split:
        split["test"] = split.pop("val")
        notes.append("The official test part is not here with masks: the validation part is the test.")
    return split if set(split) >= {"train", "test"} else None


def refuse_double_ids(cases: Iterable[Case], root: Path) -> None:
    """Raises DataError if two pictures would be one case."""
    cases = list(cases)
    counts = Counter(case.case_id for case in cases)
    doubles = [case for case in cases if counts[case.case_id] > 1]
    if doubles:
        raise DataError(
            "holds pictures of one name more than once",
            file=root,
            expected="each picture once",
            found=some([str(case.image.relative_to(root)) for case in doubles]),
            hint="remove the copies",
        )
