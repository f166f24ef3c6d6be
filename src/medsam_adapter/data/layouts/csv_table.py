"""Reading the CSV files that come with a data set."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path

from ...errors import DataError


def read_table(path: Path, columns: Sequence[str], *, has_header: bool = True) -> list[dict[str, str]]:
    """The rows of a CSV file as {column: text}, with blanks around the texts removed; empty lines are skipped.

    Args:
        columns: what must be there; with a header in any order and beside others, in any case of letters.
        has_header: the first line names the columns; if False they stand in the order of `columns`.

    Raises:
        DataError: no readable text, a column that lacks, a row of another length, or no rows.
    """
    form = ",".join(columns)
    try:
        # utf-8-sig: some of these files start with a byte order mark.
        lines = [row for row in csv.reader(path.read_text(encoding="utf-8-sig").splitlines(), strict=True) if any(row)]
    except (OSError, ValueError, csv.Error) as error:
        raise DataError(
            "cannot be read as a table",
            file=path,
            expected=f"comma-separated text with the columns {form}",
            found=str(error),
            hint="copy the file again",
        ) from error
    names = [name.strip().lower() for name in (lines.pop(0) if has_header and lines else columns)]
    lacking = [column for column in columns if column.lower() not in names]
    wrong = [row for row in lines if len(row) != len(names)]
    if lacking or wrong or not lines:
        raise DataError(
            "is damaged",
            file=path,
            expected=f"rows of {len(names)} values, {form} among them"
            if wrong and not lacking
            else f"the columns {form}, and rows",
            found=f"a row '{','.join(wrong[0])}'"
            if wrong and not lacking
            else f"'{','.join(names)}', {len(lines)} rows",
            hint="copy the file again",
        )
    place = {column: names.index(column.lower()) for column in columns}
    return [{column: row[index].strip() for column, index in place.items()} for row in lines]
