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

from .metrics import METRIC_NAMES
from .results import EvaluationResult, Summary

_HEADINGS = {"dice": "Dice", "iou": "IoU", "hd95_mm": "HD95 (mm)"}
_DECIMALS = {"dice": 3, "iou": 3, "hd95_mm": 2}
# Wide enough for any table: rich measures against it what a table needs.
_UNLIMITED_WIDTH = 10_000


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


def to_markdown(rows: Sequence[TableRow]) -> str:
    """A Markdown table; where a metric has several rows, the best value of each column is bold."""
    targets = _targets(rows)
    lines = [
        _markdown_line(["Metric", "Model", "Prompts", *targets, "Mean"]),
        _markdown_line(["---"] * 3 + ["---:"] * (len(targets) + 1), is_rule=True),
    ]
    for row, cells in zip(rows, _marked_cells(rows, targets), strict=True):
        numbers = [f"**{text}**" if is_best else text for text, is_best in cells]
        lines.append(_markdown_line([_HEADINGS[row.metric], row.model, row.protocol, *numbers]))
    return "\n".join(lines) + "\n"


def results_table(rows: Sequence[TableRow]) -> Table:
    """The rich table of the same rows, a section for each metric."""
    targets = _targets(rows)
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for heading in ("Metric", "Model", "Prompts"):
        table.add_column(heading, overflow="fold")
    for heading in (*targets, "Mean"):
        table.add_column(escape(heading), justify="right", overflow="fold")
    last_metric = None
    for row, cells in zip(rows, _marked_cells(rows, targets), strict=True):
        if last_metric not in (None, row.metric):
            table.add_section()
        heading = _HEADINGS[row.metric] if row.metric != last_metric else ""
        numbers = [f"[bold green]{text}[/]" if is_best else text for text, is_best in cells]
        table.add_row(heading, escape(row.model), escape(row.protocol), *numbers)
        last_metric = row.metric
    return table


def print_results(
    results: EvaluationResult | Sequence[EvaluationResult],
    console: Console | None = None,
    metrics: Sequence[str] = METRIC_NAMES,
) -> None:
    """Prints one or several results side by side, and below them what the means leave out."""
    results = [results] if isinstance(results, EvaluationResult) else list(results)
    console = console or Console()
    table = results_table(table_rows(results, metrics))
    needed = console.measure(table, options=console.options.update(width=_UNLIMITED_WIDTH)).maximum
    if not console.is_terminal or needed <= console.width:
        table.width = needed
        console.print(table, crop=False)
    else:
        for result in results:
            console.print(_tall_table(result, metrics))
    for result in results:
        console.print(escape(_note(result)), style="dim", highlight=False, soft_wrap=True)


def _tall_table(result: EvaluationResult, metrics: Sequence[str]) -> Table:
    """A line for each target, a column for each metric."""
    summary = result.summary()
    title = escape(f"{result.model}, {result.protocol}")
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, title=title, title_justify="left")
    table.add_column("Target", overflow="fold")
    for metric in metrics:
        table.add_column(_HEADINGS[metric], justify="right", overflow="fold")
    for target, each in summary.targets.items():
        table.add_row(escape(target), *(_number(getattr(each, metric).mean, metric) for metric in metrics))
    table.add_section()
    table.add_row("Mean", *(_number(getattr(summary.overall, metric).mean, metric) for metric in metrics))
    return table


def _note(result: EvaluationResult) -> str:
    summary: Summary = result.summary()
    counts = summary.overall
    parts = [f"masks scored: {counts.n}, cases: {len({case.case_id for case in result.cases})}"]
    if counts.n_excluded:
        parts.append(f"{counts.n_excluded} left out (reference and prediction empty)")
    if counts.n_missed:
        parts.append(f"{counts.n_missed} missed (Dice 0, HD95 = the image's diagonal)")
    if counts.n_false_positive:
        parts.append(f"{counts.n_false_positive} where nothing was to be found (Dice 0, no HD95)")
    return f"{result.model}, {result.protocol}: " + "; ".join(parts) + "."


def _targets(rows: Sequence[TableRow]) -> list[str]:
    """All targets in the order of first appearance."""
    return list(dict.fromkeys(target for row in rows for target in row.values))


def _marked_cells(rows: Sequence[TableRow], targets: Sequence[str]) -> list[list[tuple[str, bool]]]:
    """For each row the texts of its targets and mean, each with whether it is the best of its metric and column.

    What reads the same is equally good: no bold on digits that nobody sees. A metric with one row has no best.
    """
    values = [[*(row.values.get(target, math.nan) for target in targets), row.mean] for row in rows]
    best: dict[tuple[str, int], float] = {}
    for row, numbers in zip(rows, values, strict=True):
        for column, value in enumerate(numbers):
            if not math.isnan(value):
                value, key = round(value, _DECIMALS[row.metric]), (row.metric, column)
                is_better = min if row.metric == "hd95_mm" else max
                best[key] = is_better(best.get(key, value), value)
    num_rows = {row.metric: sum(other.metric == row.metric for other in rows) for row in rows}
    return [
        [
            (
                _number(value, row.metric),
                num_rows[row.metric] > 1 and round(value, _DECIMALS[row.metric]) == best.get((row.metric, column)),
            )
            for column, value in enumerate(numbers)
        ]
        for row, numbers in zip(rows, values, strict=True)
    ]


def _number(value: float, metric: str) -> str:
    return "-" if math.isnan(value) else f"{value:.{_DECIMALS[metric]}f}"


def _markdown_line(cells: Sequence[str], is_rule: bool = False) -> str:
    texts = cells if is_rule else [cell.replace("|", "\\|").replace("\n", " ") for cell in cells]
    return "| " + " | ".join(texts) + " |"
