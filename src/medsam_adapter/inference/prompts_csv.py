"""Prompts of many cases in a table, and how tables are read.

prompts.csv has one prompt in a row; columns may stand in any order, and those that are not needed may be left out:

    case,object,x,y,z,label,x0,y0,x1,y1,text
    p1,liver,120,88,14,1,,,,,                   a click; label 0 is one outside of the object, empty is 1
    p1,spleen,,,20,,30,40,80,95,                a box on slice z
    p2.nii.gz,liver,,,,,,,,,the liver           a sentence; beside clicks of the same object it belongs to them

`case` is a case id or the name of its file. Rows of one case and object are one object. Pictures have no z. Objects
that are numbers are the labels in the masks; names are numbered in the order in which they first appear.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping
from pathlib import Path

from medsam_adapter.errors import DataError
from medsam_adapter.prompts.types import ObjectPrompt

_COLUMNS = ("case", "object", "x", "y", "z", "label", "x0", "y0", "x1", "y1", "text")
DEFAULT_OBJECT = "object"


def read_prompts(file: Path) -> dict[str, dict[str, ObjectPrompt]]:
    """{case as it is written: {object: prompt}}; places without z are (x, y) and (x0, y0, x1, y1).

    Raises:
        DataError: a file that is not of this form, with the rows that are not.
    """
    asked: dict[str, dict[str, ObjectPrompt]] = {}
    wrong = []
    for number, row in rows_of(file, _COLUMNS, needed=("case",)):
        try:
            if not row["case"]:
                raise ValueError("no case")
            prompt = _prompt(row)
        except ValueError as error:
            wrong.append(f"row {number}: {error}")
            continue
        things = asked.setdefault(row["case"], {})
        join(things.setdefault(row.get("object") or DEFAULT_OBJECT, ObjectPrompt()), prompt)
    if wrong:
        raise DataError(
            "holds rows that are no prompts", file=file,
            expected="x, y (and z) of a click, x0, y0, x1, y1 (and z) of a box, or a text",
            found="; ".join(wrong[:5]) + (f"; and {len(wrong) - 5} more" if len(wrong) > 5 else ""),
            hint="voxels are counted from 0; a click outside the object has label 0",
        )  # fmt: skip
    if not asked:
        raise DataError("holds no prompt", file=file, expected="a row for each prompt", found="none")
    return asked


def join(prompt: ObjectPrompt, more: ObjectPrompt) -> None:
    """Add the clicks, boxes and sentence of `more`."""
    prompt.points += more.points
    prompt.labels += more.labels
    prompt.boxes += more.boxes
    prompt.text = " ".join(filter(None, (prompt.text, more.text)))


def rows_of(file: Path, columns: tuple[str, ...], needed: tuple[str, ...]) -> list[tuple[int, dict[str, str]]]:
    """(number of the line, {column: text without spaces around it}).

    Columns are parted by commas, semicolons or tabs, or as a first line `sep=;` says; capitals in their names count as
    small letters.

    Raises:
        DataError: no such file, no CSV, a column that is not among `columns` or is there twice, or one of `needed` that
            is missing.
    """
    try:
        text = file.read_text(encoding="utf-8-sig")
        first, _, rest = text.partition("\n")
        num_before, separator = 0, ""
        if first.lower().startswith("sep="):  # a line of Excel's own
            num_before, separator, text = 1, first[len("sep=") :][:1], rest
            first = rest.partition("\n")[0]
        separator = separator or next((mark for mark in ",;\t" if mark in first), ",")
        reader = csv.DictReader(io.StringIO(text, newline=""), delimiter=separator)
        header = [name.strip().lower() for name in reader.fieldnames or []]
        reader.fieldnames = header
        rows = [(num_before + reader.line_num, row) for row in reader]
    except OSError as error:
        raise DataError("cannot be read", file=file, found=error.strerror, hint="check the spelling") from error
    except (ValueError, csv.Error) as error:
        raise DataError("is no CSV file", file=file, expected="text, UTF-8", found=str(error)) from error
    unknown = [name for name in header if name not in columns]
    if unknown or not set(needed) <= set(header):
        raise DataError(
            "has other columns", file=file, expected=", ".join(needed) + f"; and of {', '.join(columns)} what is used",
            found=", ".join(header) or "no line", hint="the first line names the columns",
        )  # fmt: skip
    twice = sorted({name for name in header if header.count(name) > 1})
    if twice:
        raise DataError("names a column twice", file=file, expected="each once", found=", ".join(twice))
    long = next((number for number, row in rows if None in row), None)
    if long:
        raise DataError(
            f"line {long} has more columns than the first", file=file, expected=f"{len(header)} columns",
            hint="a text with commas stands between quotation marks",
        )  # fmt: skip
    return [(number, {key: (value or "").strip() for key, value in row.items()}) for number, row in rows]


def _number(row: Mapping[str, str], name: str) -> float:
    try:
        value = float(row[name])
    except ValueError:
        value = float("nan")
    if not value - value == 0:  # NaN and infinity, too
        raise ValueError(f"{name} is {row[name]!r}, no number")
    return value


def _prompt(row: Mapping[str, str]) -> ObjectPrompt:
    """Raises ValueError with what is wrong in the row."""
    z = [_number(row, "z")] if row.get("z") else []
    has = {name: bool(row.get(name)) for name in ("x", "y", "x0", "y0", "x1", "y1", "label")}
    corners = [has[name] for name in ("x0", "y0", "x1", "y1")]
    prompt = ObjectPrompt(text=row.get("text", ""))
    if has["x"] != has["y"]:
        raise ValueError("x without y" if has["x"] else "y without x")
    if any(corners) and not all(corners):
        raise ValueError("a box with a corner missing")
    if has["x"] and any(corners):
        raise ValueError("a click and a box; give each a row")
    if has["x"]:
        if row.get("label", "") not in ("", "0", "1"):
            raise ValueError(f"label {row['label']!r} is neither 1 nor 0")
        prompt.points.append((_number(row, "x"), _number(row, "y"), *z))
        prompt.labels.append(int(row.get("label") or 1))
    elif has["label"]:
        raise ValueError("a label without a click")
    elif any(corners):
        x0, y0, x1, y1 = (_number(row, name) for name in ("x0", "y0", "x1", "y1"))
        prompt.boxes.append((x0, y0, *z, x1, y1, *z))
    elif z:
        raise ValueError("z without a click or a box")
    elif not prompt.text:
        raise ValueError("nothing is asked")
    return prompt
