"""Reading the printed tables: figures stay texts, so that no digit is lost or added."""

from __future__ import annotations

import csv
from dataclasses import dataclass
from decimal import Decimal
from functools import cache
from pathlib import Path

import yaml

FOLDER = Path(__file__).parent
NO_FIGURE = "-"


@dataclass(frozen=True)
class PrintedTable:
    """A table of the paper.

    Attributes:
        name: the CSV file's, without suffix.
        columns: headings over the figures, as in the file.
        rows: {method as printed: {column: figure as printed, "-" for none}}, in the printed order.
    """

    name: str
    columns: tuple[str, ...]
    rows: dict[str, dict[str, str]]


@cache
def printed_table(name: str) -> PrintedTable:
    """One of btcv_dice, amos_dice (Dice) and multimodal (Dice and IoU in percent, HD95 in mm)."""
    with (FOLDER / f"{name}.csv").open(encoding="utf-8", newline="") as file:
        (_, *columns), *lines = csv.reader(file)
    return PrintedTable(
        name, tuple(columns), {method: dict(zip(columns, figures, strict=True)) for method, *figures in lines}
    )


@cache
def footnotes() -> dict:
    """What footnotes.yaml says."""
    return yaml.safe_load((FOLDER / "footnotes.yaml").read_text(encoding="utf-8"))


def average_note(table: PrintedTable, method: str) -> str:
    """What is to be said of a row's printed average; empty if it is the mean of its columns."""
    if method not in footnotes()["averages"].get(table.name, ()):
        return ""
    *figures, average = table.rows[method].values()
    mean = sum(map(float, figures)) / len(figures)
    return f"{method}: printed as {average}; the mean of its printed columns is {mean:.3f}."


def from_percent(figure: str) -> str:
    """ "78.44" to "0.7844": the same digits on the scale of 0 to 1."""
    return figure if figure == NO_FIGURE else str(Decimal(figure).scaleb(-2))
