"""A table before it is drawn: sections of rows, cells and footnotes; as Markdown and on the screen.

LaTeX and CSV are in `exports.py`. A footnote is the text that a cell, a row or a heading carries; numbers are given
when the table is drawn, in reading order.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from rich import box
from rich.cells import cell_len
from rich.console import Console
from rich.markup import escape
from rich.table import Table

# Wide enough for any table: rich measures against it what a table needs.
_UNLIMITED_WIDTH = 10_000
_SUPERSCRIPTS = str.maketrans("0123456789,", "⁰¹²³⁴⁵⁶⁷⁸⁹˒")
NOTHING = "-"


@dataclass(frozen=True)
class Cell:
    """A text, whether it is the best of its kind, and its footnotes as texts."""

    text: str = NOTHING
    is_best: bool = False
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Row:
    """The section it stands in, its names (model, prompts) and a cell for each heading."""

    section: str
    names: tuple[Cell, ...]
    cells: tuple[Cell, ...]


@dataclass(frozen=True)
class Grid:
    """A table.

    Attributes:
        section_heading: what sections are ("Metric", "Source").
        name_headings: over the names of rows.
        headings: over the cells.
        rows: those of one section in succession.
        title: said above it; empty for none.
        remarks: said below it, without a mark.
        section_rows: on the screen a section has a line of its own, in place of a column.
    """

    section_heading: str
    name_headings: tuple[str, ...]
    headings: tuple[Cell, ...]
    rows: tuple[Row, ...]
    title: str = ""
    remarks: tuple[str, ...] = ()
    section_rows: bool = False

    @property
    def footnotes(self) -> list[str]:
        """All footnotes in reading order; number n is at n - 1."""
        cells = [*self.headings, *(cell for row in self.rows for cell in (*row.names, *row.cells))]
        return list(dict.fromkeys(note for cell in cells for note in cell.notes))

    def marks(self, cell: Cell) -> str:
        """The numbers of a cell's footnotes: "1,3", or empty."""
        footnotes = self.footnotes
        return ",".join(str(footnotes.index(note) + 1) for note in cell.notes)

    def sections(self) -> dict[str, list[Row]]:
        """The rows of each section, in order."""
        found: dict[str, list[Row]] = {}
        for row in self.rows:
            found.setdefault(row.section, []).append(row)
        return found


def to_markdown(grid: Grid) -> str:
    """A Markdown table with its title, footnotes and remarks; sections are the first column, the best is bold."""
    headings = [grid.section_heading, *grid.name_headings, *(_marked_down(grid, cell) for cell in grid.headings)]
    num_texts = 1 + len(grid.name_headings)
    lines = [f"**{grid.title}**", ""] if grid.title else []
    lines += [_markdown_line(headings), _markdown_line(["---"] * num_texts + ["---:"] * len(grid.headings))]
    for row in grid.rows:
        lines.append(
            _markdown_line([_plain(row.section), *(_marked_down(grid, cell) for cell in (*row.names, *row.cells))])
        )
    notes = [f"<sup>{number}</sup> {note}" for number, note in enumerate(grid.footnotes, 1)]
    for note in (*notes, *grid.remarks):
        lines += ["", note]
    return "\n".join(lines) + "\n"


def to_rich(grid: Grid) -> Table:
    """The rich table without footnotes and remarks."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, collapse_padding=True, title_justify="left", title_style="bold")
    table.title = escape(grid.title) or None
    for heading in (*(() if grid.section_rows else (grid.section_heading,)), *grid.name_headings):
        table.add_column(escape(heading), overflow="fold")
    columns = [
        _aligned(grid, [heading, *(row.cells[i] for row in grid.rows)]) for i, heading in enumerate(grid.headings)
    ]
    for heading, *_ in columns:
        table.add_column(heading, overflow="fold")
    place = 0
    for number, (section, rows) in enumerate(grid.sections().items()):
        if number:
            table.add_section()
        if grid.section_rows:
            table.add_row(f"[bold cyan]{escape(section)}[/]")
        for index, row in enumerate(rows):
            names = [_on_screen(grid, cell) for cell in row.names]
            if not grid.section_rows:
                names.insert(0, escape(section) if index == 0 else "")
            place += 1
            table.add_row(*names, *(column[place] for column in columns))
    return table


def print_grid(grid: Grid, console: Console | None = None) -> None:
    """Prints a table and what stands below it.

    A terminal too narrow gets it in several parts, some columns each; output into a file or pipe is never cut.
    """
    console = console or Console()
    for part in _parts(grid, console):
        table = to_rich(part)
        if fits(table, console):
            table.width = needed_width(table, console)
        console.print(table, crop=False)
    notes = Table.grid(padding=(0, 1))
    notes.add_column(justify="right", no_wrap=True)
    notes.add_column(overflow="fold")
    for number, note in enumerate(grid.footnotes, 1):
        notes.add_row(str(number).translate(_SUPERSCRIPTS), escape(note))
    for remark in grid.remarks:
        notes.add_row("", escape(remark))
    if notes.rows:
        console.print(notes, style="dim", highlight=False)
        console.print()


def needed_width(table: Table, console: Console) -> int:
    """Columns of the terminal that a rich table takes if nothing is folded."""
    return console.measure(table, options=console.options.update(width=_UNLIMITED_WIDTH)).maximum


def fits(table: Table, console: Console) -> bool:
    """Whether it can be printed whole: the terminal is wide enough, or there is none."""
    return not console.is_terminal or needed_width(table, console) <= console.width


def _parts(grid: Grid, console: Console) -> list[Grid]:
    """The grid, or parts of it with so many columns that each fits, about equally many."""
    count = len(grid.headings)
    for num_parts in range(1, count + 1):
        edges = [round(count * i / num_parts) for i in range(num_parts + 1)]
        parts = [_columns(grid, first, last) for first, last in zip(edges, edges[1:], strict=False)]
        if all(fits(to_rich(part), console) for part in parts):
            return parts
    return [_columns(grid, i, i + 1) for i in range(count)] or [grid]


def _columns(grid: Grid, first: int, last: int) -> Grid:
    """Only some columns; footnotes keep the numbers that they have in the whole."""
    if (first, last) == (0, len(grid.headings)):
        return grid
    rows = tuple(replace(row, cells=row.cells[first:last]) for row in grid.rows)
    part = _Part(**{**vars(grid), "headings": grid.headings[first:last], "rows": rows}, whole=grid)
    return replace(part, title=grid.title if first == 0 else "")


@dataclass(frozen=True)
class _Part(Grid):
    whole: Grid = field(kw_only=True)

    @property
    def footnotes(self) -> list[str]:
        return self.whole.footnotes


def _on_screen(grid: Grid, cell: Cell) -> str:
    text = f"[bold green]{escape(cell.text)}[/]" if cell.is_best else escape(cell.text)
    return text + grid.marks(cell).translate(_SUPERSCRIPTS)


def _aligned(grid: Grid, cells: Sequence[Cell]) -> list[str]:
    """A column as rich markup, its texts to the right, decimal points below each other, marks behind the digits.

    Rich's own justification to the right would push a text without marks to where others have theirs.
    """
    decimals = [len(found[1]) if (found := re.fullmatch(r"-?\d+\.(\d+)", cell.text)) else None for cell in cells]
    most = max((count for count in decimals if count), default=0)
    missing = [0 if count is None else most - count for count in decimals]
    used = [cell_len(cell.text) + spare for cell, spare in zip(cells, missing, strict=True)]
    return [" " * (max(used) - width) + _on_screen(grid, cell) for cell, width in zip(cells, used, strict=True)]


def _marked_down(grid: Grid, cell: Cell) -> str:
    marks = grid.marks(cell)
    text = _plain(cell.text)
    return (f"**{text}**" if cell.is_best else text) + (f"<sup>{marks}</sup>" if marks else "")


def _plain(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")


def _markdown_line(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cells) + " |"
