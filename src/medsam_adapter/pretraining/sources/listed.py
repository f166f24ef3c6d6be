"""Pictures that a table names with their class, and the reading of such tables."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np

from medsam_adapter.data.io import stem
from medsam_adapter.errors import DataError
from medsam_adapter.pretraining.sources.base import Picture, evenly, read_pages
from medsam_adapter.pretraining.sources.listing import image_files_below

CHECKED = 50  # if none of so many files is there, the folder is the wrong one


class PictureList:
    """8-bit pictures below a folder, with their class names.

    Args:
        name: what messages call it.
        root: the folder.
        entries: (path below root, class name or None) for each image. A missing file is an error when it is read.
        table: the file that names them, for messages.
        max_images: take so many, evenly spread.

    Raises:
        DataError: no entries, or none of the first 50 files exists.
    """

    def __init__(
        self,
        name: str,
        root: Path,
        entries: Iterable[tuple[str, str | None]],
        table: Path | None = None,
        max_images: int | None = None,
    ):
        self.name, self.root = name, root
        files, numbers = [], []
        classes: dict[str | None, int] = {}
        for file, label in entries:
            files.append(file.encode())
            numbers.append(classes.setdefault(label, len(classes)))
        if not files:
            raise DataError("names no images", file=table or root, expected="at least one")
        if not any((root / file.decode()).is_file() for file in files[:CHECKED]):
            raise DataError(
                f"has none of the first {min(CHECKED, len(files))} images" + (f" that {table} names" if table else ""),
                file=root, expected=f"a file {files[0].decode()}",
                found=", ".join(sorted(entry.name for entry in root.iterdir())[:8]) or "an empty folder",
                hint="give the folder that the archives were unpacked in, and unpack all of them",
            )  # fmt: skip
        chosen = evenly(len(files), max_images)
        # Arrays and not lists: loading workers share their memory, where counting references would copy a million
        # strings into each.
        self._files = np.array(files)[chosen]
        self._labels = np.array(numbers, dtype=np.int32)[chosen]
        self._classes = list(classes)

    def __len__(self) -> int:
        return len(self._files)

    def read(self, index: int) -> Picture:
        """Raises DataError for a missing or damaged file, or one that is not 8 bit."""
        file = self.root / self._files[index].decode()
        return Picture(str(file), read_pages(file, file)[0], self._classes[self._labels[index]])


def folder_of(path: str) -> Path:
    """The path, if it is a folder; else raises DataError."""
    root = Path(path)
    if not root.is_dir():
        raise DataError(
            "is no folder", file=root, expected="the folder of the data set",
            found="a file" if root.exists() else "no such folder", hint="check the spelling of the path",
        )  # fmt: skip
    return root


def read_table(root: Path, table: str) -> tuple[Path, list[str], Iterator[dict[str, str]]]:
    """Path, column names and rows of a CSV file, given below `root` or from the current folder.

    Raises:
        DataError: no such file, no text, or (while the rows are read) a row of another length.
    """
    file = root / table if (root / table).is_file() else Path(table)
    if not file.is_file():
        raise DataError(
            "does not exist", file=root / table, expected="a CSV file",
            found=", ".join(sorted(path.name for path in root.glob("*.csv"))) or "no CSV file in the folder",
            hint="check `csv`: a path below the data set's folder, or from the current one",
        )  # fmt: skip
    try:
        with file.open(newline="", encoding="utf-8-sig") as opened:
            columns = next(csv.reader(opened), [])
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError("cannot be read as CSV", file=file, expected="UTF-8 text", found=str(error)) from error
    return file, columns, _rows(file, columns)


def _rows(file: Path, columns: list[str]) -> Iterator[dict[str, str]]:
    with file.open(newline="", encoding="utf-8-sig") as opened:
        reader = csv.reader(opened)
        try:
            next(reader, None)
            for row in reader:
                if not row:
                    continue
                if len(row) != len(columns):
                    raise DataError(
                        f"line {reader.line_num} does not fit the header", file=file, expected=f"{len(columns)} values",
                        found=f"{len(row)}: {','.join(row)[:80]}", hint="the file may be cut off; download it again",
                    )  # fmt: skip
                yield dict(zip(columns, row, strict=True))
        except (UnicodeDecodeError, csv.Error) as error:
            raise DataError(
                f"cannot be read as CSV after line {reader.line_num}", file=file, expected="UTF-8 text",
                found=str(error), hint="save it as UTF-8",
            ) from error  # fmt: skip


def require_columns(file: Path, columns: Sequence[str], *wanted: str) -> None:
    """Raises DataError that names the columns wanted and found unless all are there."""
    if any(column not in columns for column in wanted):
        raise DataError(
            "does not have the columns of this data set", file=file, expected=", ".join(wanted),
            found=", ".join(columns) or "an empty file", hint="give the table as it was distributed, header included",
        )  # fmt: skip


def files_by_stem(root: Path, *preferred: str) -> dict[str, str]:
    """{file name without suffix: path below root} of all images below `root`.

    Args:
        preferred: names of folders, as shell patterns would start; of two files of one name the one in the earliest of
            these stands.
    """

    def rank(file: str) -> int:
        folders = file.lower().split("/")[:-1]
        return next(
            (n for n, start in enumerate(preferred) if any(f.startswith(start) for f in folders)), len(preferred)
        )

    found: dict[str, str] = {}
    for file in sorted(image_files_below(root), key=rank):
        found.setdefault(stem(file), file)
    return found
