"""Results side by side: on the screen with rich, and as Markdown for cards and notes.

Rows are models with their prompts, columns are targets and the mean over targets. A terminal too narrow for that gets
one table for each model with a line for each target; output into a file or pipe is never cut.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from . import grids
from .grids import Cell, Grid, Row
from .metrics import METRIC_NAMES
from .results import EvaluationResult, Summary

HEADINGS = {"dice": "Dice", "iou": "IoU", "hd95_mm": "HD95 (mm)"}
DECIMALS = {"dice": 3, "iou": 3, "hd95_mm": 2}


@dataclass(frozen=True)
class TableRow:
    """One metric of one model: the mean over cases for each target, and the mean over targets (nan: no value)."""

    model: str
    protocol: str
    metric: str
    values: dict[str, float]
    mean: float


def table_rows(results: Sequence[EvaluationResult], metrics: Sequence[str] = METRIC_NAMES) -> list[TableRow]:
    """The rows of a table, metric by metric and within a metric in the order of `results`."""
    summaries = [result.summary() for result in results]
    return [
        TableRow(
            result.model,
            result.protocol,
            metric,
            {target: getattr(each, metric).mean for target, each in summary.targets.items()},
            getattr(summary.overall, metric).mean,
        )
        for metric in metrics
        for result, summary in zip(results, summaries, strict=True)
    ]


def results_grid(rows: Sequence[TableRow], remarks: Sequence[str] = ()) -> Grid:
    """The table of these rows, a section for each metric; the best of each column is marked."""
    targets = _targets(rows)
    return Grid(
        "Metric",
        ("Model", "Prompts"),
        tuple(Cell(target) for target in (*targets, "Mean")),
        tuple(
            Row(HEADINGS[row.metric], (Cell(row.model), Cell(row.protocol)), cells)
            for row, cells in zip(rows, _marked_cells(rows, targets), strict=True)
        ),
        remarks=tuple(remarks),
    )


def to_markdown(rows: Sequence[TableRow]) -> str:
    """A Markdown table; where a metric has several rows, the best value of each column is bold."""
    return grids.to_markdown(results_grid(rows))


def print_results(
    results: EvaluationResult | Sequence[EvaluationResult],
    console: Console | None = None,
    metrics: Sequence[str] = METRIC_NAMES,
) -> None:
    """Prints one or several results side by side, and below them what the means leave out."""
    results = [results] if isinstance(results, EvaluationResult) else list(results)
    console = console or Console()
    table = grids.to_rich(results_grid(table_rows(results, metrics)))
    if grids.fits(table, console):
        table.width = grids.needed_width(table, console)
        console.print(table, crop=False)
    else:
        for result in results:
            console.print(_tall_table(result, metrics))
    for result in results:
        console.print(escape(result_note(result)), style="dim", highlight=False, soft_wrap=True)


def _tall_table(result: EvaluationResult, metrics: Sequence[str]) -> Table:
    """A line for each target, a column for each metric."""
    summary = result.summary()
    title = escape(f"{result.model}, {result.protocol}")
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, title=title, title_justify="left")
    table.add_column("Target", overflow="fold")
    for metric in metrics:
        table.add_column(HEADINGS[metric], justify="right", overflow="fold")
    for target, each in summary.targets.items():
        table.add_row(escape(target), *(number(getattr(each, metric).mean, metric) for metric in metrics))
    table.add_section()
    table.add_row("Mean", *(number(getattr(summary.overall, metric).mean, metric) for metric in metrics))
    return table


def result_note(result: EvaluationResult) -> str:
    """What the means leave out, and which weights they are of."""
    summary: Summary = result.summary()
    counts = summary.overall
    parts = [f"masks scored: {counts.n}, cases: {len({case.case_id for case in result.cases})}"]
    if counts.n_excluded:
        parts.append(f"{counts.n_excluded} left out (reference and prediction empty)")
    if counts.n_missed:
        parts.append(f"{counts.n_missed} missed (Dice 0, HD95 = the image's diagonal)")
    if counts.n_false_positive:
        parts.append(f"{counts.n_false_positive} where nothing was to be found (Dice 0, no HD95)")
    if result.settings.get("model_sha256"):
        parts.append(f"weights {result.settings['model_sha256'][:10]}")
    return f"{result.model}, {result.protocol}: " + "; ".join(parts) + "."


def _targets(rows: Sequence[TableRow]) -> list[str]:
    """All targets in the order of first appearance."""
    return list(dict.fromkeys(target for row in rows for target in row.values))


def _marked_cells(rows: Sequence[TableRow], targets: Sequence[str]) -> list[tuple[Cell, ...]]:
    """For each row the cells of its targets and mean, the best of each metric and column marked."""
    values = [[*(row.values.get(target, math.nan) for target in targets), row.mean] for row in rows]
    cells: list[tuple[Cell, ...]] = [() for _ in rows]
    for metric in dict.fromkeys(row.metric for row in rows):
        chosen = [index for index, row in enumerate(rows) if row.metric == metric]
        columns = zip(*(values[index] for index in chosen), strict=True)
        marked = [mark_best(column, metric) for column in columns]
        for place, index in enumerate(chosen):
            cells[index] = tuple(column[place] for column in marked)
    return cells


def mark_best(values: Sequence[float], metric: str) -> list[Cell]:
    """A column of one metric as cells, its best marked.

    What reads the same is equally good: no bold on digits that nobody sees. A column of one value has no best.
    """
    shown = [round(value, DECIMALS[metric]) for value in values if not math.isnan(value)]
    best = (min if metric == "hd95_mm" else max)(shown, default=math.nan)
    return [Cell(number(v, metric), len(shown) > 1 and round(v, DECIMALS[metric]) == best) for v in values]


def number(value: float, metric: str) -> str:
    """A value with as many decimals as its metric has in all tables; "-" for none."""
    return grids.NOTHING if math.isnan(value) else f"{value:.{DECIMALS[metric]}f}"
