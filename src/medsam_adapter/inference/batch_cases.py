"""Which cases a prediction of many is about: a folder or MANIFEST.csv, and prompts.csv (`prompts_csv.py`)."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath

from medsam_adapter.data.kinds import (
    DICOM_SUFFIXES,
    IMAGE_SUFFIXES,
    PICTURE_MASK_SUFFIXES,
    PICTURE_SUFFIXES,
    VOLUME_MASK_SUFFIXES,
    has_suffix,
    is_dicom_file,
    is_dicom_folder,
    stem,
)
from medsam_adapter.errors import DataError
from medsam_adapter.inference.prompts_csv import join, read_prompts, rows_of
from medsam_adapter.prompts.types import ObjectPrompt

_MANIFEST_COLUMNS = ("case_id", "image", "output")


@dataclass(frozen=True)
class BatchCase:
    """One scan and what is asked of it.

    Attributes:
        case_id: of one name in the whole prediction.
        image: file, or folder of a DICOM series.
        prompts: one for each object, in the file frame; places of pictures may be (x, y) and (x0, y0, x1, y1).
        output: the mask's file under the output folder; made of the case's name if empty.
        labels: the value of each object in the mask; 1 to n if empty.
        names: of the objects; "object 1" to "object n" if empty.
    """

    case_id: str
    image: Path
    prompts: Sequence[ObjectPrompt]
    output: str = ""
    labels: tuple[int, ...] = ()
    names: tuple[str, ...] = ()

    def __post_init__(self):
        labels = self.labels or tuple(range(1, len(self.prompts) + 1))
        for name, value in {
            "image": Path(self.image),
            "output": self.output or default_output(self.case_id, Path(self.image)),
            "labels": labels,
            "names": self.names or tuple(f"object {label}" for label in labels),
        }.items():
            object.__setattr__(self, name, value)


@dataclass(frozen=True)
class Found:
    """A scan before anything is asked of it."""

    case_id: str
    image: Path
    output: str = ""


def default_output(case_id: str, image: Path) -> str:
    """Masks of pictures are .png, all others .nii.gz."""
    return case_id + (".png" if has_suffix(image, PICTURE_SUFFIXES) else ".nii.gz")


def check_cases(cases: Iterable[BatchCase], file: Path | None = None) -> list[BatchCase]:
    """The cases, none of which stands in another's way.

    Raises:
        DataError: two cases of one name or output, a case without prompts, or an output that lies elsewhere or holds no
            mask.
    """
    cases = list(cases)
    for what in ("case_id", "output"):
        seen: dict[str, BatchCase] = {}
        for case in cases:
            other = seen.setdefault(getattr(case, what), case)
            if other is not case:
                raise DataError(
                    f"two cases have one {what.replace('_', ' ')}", file=file, expected="one each",
                    found=f"{getattr(case, what)!r} of {other.image} and {case.image}",
                    hint="give them names in a MANIFEST.csv with the columns case_id,image,output",
                )  # fmt: skip
    for case in cases:
        _check_output(case.output, file)
        if not case.prompts or not len(case.prompts) == len(case.labels) == len(case.names):
            raise DataError(
                f"case {case.case_id!r} asks for nothing, or not for as many objects as it names", file=file,
                expected="a prompt, a label and a name for each object",
                found=f"{len(case.prompts)}, {len(case.labels)} and {len(case.names)}",
            )  # fmt: skip
    return cases


def find_cases(source: Path) -> list[Found]:
    """The scans of a folder (its image files, and its folders that are DICOM series), of a MANIFEST.csv (columns
    case_id, image and, if wanted, output; images relative to it), or of a single file.

    Raises:
        DataError: nothing there, or a MANIFEST.csv that is none.
    """
    if has_suffix(source, (".csv",)):
        return _from_manifest(source)
    if not source.is_dir():
        return [Found(stem(source), source)]
    entries = sorted(entry for entry in source.iterdir() if not entry.name.startswith("."))
    images = [entry for entry in entries if entry.is_file() and has_suffix(entry, IMAGE_SUFFIXES)]
    images += [entry for entry in entries if entry.is_dir() and is_dicom_folder(entry)]
    if is_dicom_folder(source):
        # Its files may be pictures by themselves or the slices of one scan: prompts say which.
        images += [e for e in entries if not has_suffix(e, IMAGE_SUFFIXES) and is_dicom_file(e)] + [source.absolute()]
    return [Found(stem(image), image) for image in images]


def ask_texts(found: Iterable[Found], texts: Sequence[str]) -> list[BatchCase]:
    """Each sentence of every scan; the i-th has label i."""
    labels = tuple(range(1, len(texts) + 1))
    prompts = tuple(ObjectPrompt(text=text) for text in texts)
    return _black_and_white(BatchCase(f.case_id, f.image, prompts, f.output, labels, tuple(texts)) for f in found)


def ask_prompts(found: Iterable[Found], file: Path, folder: Path) -> list[BatchCase]:
    """What prompts.csv asks; scans that it does not name are left out.

    A case that it names and that is not there becomes one all the same: it will fail by itself and by name.

    Args:
        folder: where such a case is looked for.

    Raises:
        DataError: a file that is not of this form, with the rows that are not, or a name that two scans have.
    """
    asked = read_prompts(file)
    values = _label_values([name for objects in asked.values() for name in objects], file)
    by_name: dict[str, list[Found]] = {}
    for each in found:
        for name in {each.case_id, each.image.name}:
            by_name.setdefault(name, []).append(each)
    merged: dict[Path, tuple[Found, dict[str, ObjectPrompt]]] = {}
    for name, objects in asked.items():
        fits = by_name.get(name, [Found(stem(name), folder / PurePosixPath(name).name)])
        if len(fits) > 1:
            raise DataError(
                f"names case {name!r}, and there are several", file=file, expected="the name of one file",
                found=", ".join(str(fit.image.name) for fit in fits), hint="write the file's whole name",
            )  # fmt: skip
        _, known = merged.setdefault(fits[0].image, (fits[0], {}))
        for thing, prompt in objects.items():
            join(known.setdefault(thing, ObjectPrompt()), prompt)
    return _black_and_white(
        [
            BatchCase(
                each.case_id, each.image, tuple(objects.values()), each.output, tuple(values[name] for name in objects),
                tuple(objects),
            )
            for each, objects in merged.values()
        ],
        file,
    )  # fmt: skip


def _black_and_white(cases: Iterable[BatchCase], file: Path | None = None) -> list[BatchCase]:
    """The cases, checked; where there is one object in all of them, pictures of masks are 0 and 255 rather than 1."""
    cases = check_cases(cases, file)
    if {label for case in cases for label in case.labels} != {1}:
        return cases
    return [replace(c, labels=(255,)) if has_suffix(c.output, PICTURE_MASK_SUFFIXES) else c for c in cases]


def object_names(cases: Iterable[BatchCase]) -> dict[int, str]:
    """{label: name} of all cases."""
    pairs = {label: name for case in cases for label, name in zip(case.labels, case.names, strict=True)}
    return dict(sorted(pairs.items()))


def _label_values(names: Iterable[str], file: Path) -> dict[str, int]:
    """{object: label}: numbers as they are, else numbered as they come."""
    names = list(dict.fromkeys(names))
    numbers = [name for name in names if name.isascii() and name.isdigit()]
    if not numbers:
        return {name: value for value, name in enumerate(names, 1)}
    if len(numbers) < len(names) or not all(1 <= int(name) <= 65535 for name in numbers):
        raise DataError(
            "mixes objects of two kinds", file=file, expected="names, or numbers from 1 to 65535",
            found=", ".join(map(repr, names[:10])),
        )  # fmt: skip
    return {name: int(name) for name in numbers}


def _from_manifest(file: Path) -> list[Found]:
    found = []
    for number, row in rows_of(file, _MANIFEST_COLUMNS, needed=("case_id", "image")):
        case_id, image, output = row["case_id"], row["image"], row.get("output", "")
        if not case_id or not image:
            raise DataError(
                f"row {number} is incomplete", file=file, expected="case_id and image", found=str(dict(row))
            )  # fmt: skip
        _check_output(output or default_output(case_id, Path(image)), file)
        found.append(Found(case_id, file.parent / image, output))
    return found


def _check_output(output: str, file: Path | None) -> None:
    """A name that came with the data never leads out of the output folder."""
    path, suffixes = PurePosixPath(output), (*VOLUME_MASK_SUFFIXES, *PICTURE_MASK_SUFFIXES, *DICOM_SUFFIXES)
    is_inside = not path.is_absolute() and not {"..", "."} & set(output.split("/")) and not set(output) & set("\\:\0\n")
    if not is_inside or path.name.startswith(".") or not has_suffix(path, suffixes) or len(path.name.encode()) > 200:
        raise DataError(
            "names an output that cannot be written", file=file,
            expected=f"a file under the output folder that ends in {', '.join(suffixes)}", found=repr(output[:100]),
            hint="a case id becomes a file name if the manifest has no output",
        )  # fmt: skip
