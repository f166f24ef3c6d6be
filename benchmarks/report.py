"""Tables for people (Markdown, to be pasted into a README) and the same as JSON."""

from __future__ import annotations

from dataclasses import dataclass, field

from benchmarks.timing import Timings


@dataclass
class Table:
    """One table.

    Attributes:
        rows: cells in the order of `headers`; the first column is text, the others are aligned to the right.
        notes: sentences below it.
        seconds: of each contender in each round, for the JSON file.
        processor_seconds: of this process in all of them.
    """

    title: str
    headers: list[str]
    rows: list[list[str]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    seconds: dict[str, list[float]] = field(default_factory=dict)
    processor_seconds: float = 0.0

    def keep(self, timings: Timings) -> None:
        """Store the seconds of all rounds."""
        self.seconds |= timings.seconds
        self.processor_seconds += timings.processor_seconds

    def cores_used(self) -> float:
        """Mean number of cores at work; much below the number of threads, other programs have had the machine, too."""
        return self.processor_seconds / (sum(map(sum, self.seconds.values())) or 1.0)

    def markdown(self) -> str:
        """Heading, table and notes; columns are padded, so that it can be read as it is."""
        widths = [max(len(row[i]) for row in [self.headers, *self.rows]) for i in range(len(self.headers))]
        rule = ["-" * widths[0], *("-" * (width - 1) + ":" for width in widths[1:])]
        lines = [_line(self.headers, widths), _line(rule, widths), *(_line(row, widths) for row in self.rows)]
        return "\n".join([f"### {self.title}", "", *lines, *(f"\n{note}" for note in self.notes), ""])


def _line(cells: list[str], widths: list[int]) -> str:
    first, *others = zip(cells, widths, strict=True)
    return "| " + " | ".join([first[0].ljust(first[1]), *(cell.rjust(width) for cell, width in others)]) + " |"


def figure(value: float) -> str:
    """Three significant digits, or a whole number."""
    return f"{value:.0f}" if value >= 1000 else f"{value:#.3g}".rstrip(".")


def times(value: float) -> str:
    """A ratio of speeds."""
    return f"{value:.2f}x"


def megabytes(size: int) -> str:
    """Of 10^6 bytes."""
    return f"{size / 1e6:.0f}"
