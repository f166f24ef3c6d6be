"""Measured figures in the columns of the paper's tables, and below them each target with its interval."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from .grids import Cell, Grid, Row
from .published.protocols import Column, PaperProtocol
from .results import EvaluationResult
from .statistics import RESAMPLES, SEED, mean_interval, mean_of_columns
from .tables import HEADINGS, mark_best, number, result_note

PUBLISHED, MEASURED = "Published (Wu et al.)", "Measured here"
INTERVAL_REMARK = (
    f"In brackets the 95 % interval of the mean: percentile bootstrap over cases, {RESAMPLES} draws, seed {SEED}; the "
    "number of cases behind it."
)


def paper_grid(protocol: PaperProtocol, results: Sequence[EvaluationResult], notes: Sequence[str] = ()) -> Grid:
    """The paper's table with a row for each result below the published ones.

    Args:
        results: evaluations of data sets whose targets `protocol.match` knows; others have empty rows.
        notes: what else has to be said below the table.
    """
    headings = [Cell(c.heading, notes=_noted(protocol.column_note(c.heading))) for c in protocol.columns]
    headings += [Cell(protocol.average)] if protocol.average else []
    rows = []
    for method, figures, average, note in protocol.published_rows():
        cells = [Cell(figure) for figure in figures] + ([Cell(average, notes=_noted(note))] if average else [])
        rows.append(Row(PUBLISHED, (Cell(method),), tuple(cells)))
    return Grid(
        "Source", ("Method",), tuple(headings), (*rows, *_measured_rows(protocol, results)), protocol.title,
        tuple(text for text in (protocol.remark, *notes, *map(result_note, results)) if text), section_rows=True,
    )  # fmt: skip


def interval_grid(protocol: PaperProtocol, results: Sequence[EvaluationResult]) -> Grid:
    """A line for each target, and for the paper's average, with a column for each result."""
    rows = []
    for metric in protocol.metrics:
        columns = [column for column in protocol.columns if column.metric == metric]
        lines: dict[str, list[Cell]] = {}
        for place, result in enumerate(results):
            for name, text in _with_intervals(protocol, columns, result, metric):
                lines.setdefault(name, [Cell()] * len(results))[place] = Cell(text)
        average = lines.pop("", None)
        rows += [Row(HEADINGS[metric], (Cell(name),), tuple(cells)) for name, cells in lines.items()]
        if average:
            rows.append(Row(HEADINGS[metric], (Cell(protocol.average),), tuple(average)))
    return Grid(
        "Metric", ("Target",), tuple(Cell(row_name(result)) for result in results), tuple(rows),
        remarks=(INTERVAL_REMARK,), section_rows=True,
    )  # fmt: skip


def column_values(protocol: PaperProtocol, result: EvaluationResult) -> dict[Column, float]:
    """{column: the mean over its targets of their means over cases}; nan unless all of its targets were measured."""
    summary = result.summary()
    names = protocol.match(summary.targets)
    found = {}
    for column in protocol.columns:
        means = [
            getattr(summary.targets[names[target]], column.metric).mean if target in names else math.nan
            for target in column.targets
        ]
        found[column] = sum(means) / len(means)
    return found


def average_value(values: dict[Column, float]) -> float:
    """The mean over the measured columns; nan if there is none."""
    measured = [value for value in values.values() if not math.isnan(value)]
    return sum(measured) / len(measured) if measured else math.nan


def row_name(result: EvaluationResult) -> str:
    """ "model, 1-point", and per slice or against whom, where that is not as usual."""
    return f"{result.model}, {result.protocol.replace(' per volume', '')}"


def _measured_rows(protocol: PaperProtocol, results: Sequence[EvaluationResult]) -> list[Row]:
    values = [column_values(protocol, result) for result in results]
    columns = [mark_best([each[column] for each in values], column.metric) for column in protocol.columns]
    if protocol.average:
        averages = mark_best([average_value(each) for each in values], protocol.columns[0].metric)
        columns.append([
            Cell(cell.text, cell.is_best, _noted(_missing_note(each)))
            for cell, each in zip(averages, values, strict=True)
        ])  # fmt: skip
    return [
        Row(MEASURED, (Cell(row_name(result)),), tuple(column[place] for column in columns))
        for place, result in enumerate(results)
    ]


def _missing_note(values: dict[Column, float]) -> str:
    missing = [column.heading for column, value in values.items() if math.isnan(value)]
    if not missing or len(missing) == len(values):
        return ""
    return f"Mean of the {len(values) - len(missing)} measured columns, without {', '.join(missing)}."


def _with_intervals(
    protocol: PaperProtocol, columns: Sequence[Column], result: EvaluationResult, metric: str
) -> list[tuple[str, str]]:
    """(target, "mean [low, high] n") of a result; the target of the average is empty."""
    _, targets, values = result.case_values(metric)
    names = protocol.match(targets)
    lines = []
    for target in dict.fromkeys(target for column in columns for target in column.targets if target in names):
        lines.append((target, _mean_text(values[:, [targets.index(names[target])]], [[0]], metric)))
    measured = [
        [targets.index(names[target]) for target in column.targets]
        for column in columns
        if not math.isnan(column_values(protocol, result)[column])
    ]
    if protocol.average and measured:
        lines.append(("", _mean_text(values, measured, metric)))
    return lines


def _mean_text(values: np.ndarray, columns: list[list[int]], metric: str) -> str:
    used = values[:, sorted({index for column in columns for index in column})]
    low, high = mean_interval(values, columns)
    count = int((~np.isnan(used)).any(1).sum())
    interval = f" [{number(low, metric)}, {number(high, metric)}]" if not math.isnan(low) else ""
    return f"{number(float(mean_of_columns(values, columns)), metric)}{interval} n={count}"


def _noted(text: str) -> tuple[str, ...]:
    return (text,) if text else ()
