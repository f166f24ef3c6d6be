"""The outcome of a comparison as one table: a row for each method and kind of prompts."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path

from medsam_adapter.baselines import PUBLISHED_ONLY
from medsam_adapter.comparison.contestants import CONTESTANTS, PROMPTED, UNPROMPTED, ZERO_SHOT
from medsam_adapter.comparison.runs import Outcome
from medsam_adapter.evaluation.grids import NOTHING, Cell, Grid, Row
from medsam_adapter.evaluation.published.protocols import PaperProtocol
from medsam_adapter.evaluation.results import EvaluationResult
from medsam_adapter.evaluation.tables import HEADINGS, number

SECTIONS = (ZERO_SHOT, PROMPTED, UNPROMPTED)
_METRICS = ("dice", "iou", "hd95_mm")


def comparison_grid(outcomes: Mapping[str, Outcome], title: str, protocol: PaperProtocol | None = None) -> Grid:
    """Targets' Dice, the means of Dice, IoU and HD95, what was trained, for how long and with how much memory.

    Args:
        protocol: the table of the paper about this data set, whose printed rows are shown in a section of their own.

    A method that failed has a row with the reason as its footnote. The best figure of each column is marked; methods
    with and without prompts are different in what a person has to do, so each section has its own best.
    """
    rows: list[Row] = []
    targets: list[str] = []
    loaded = {
        (name, prompts): EvaluationResult.load(Path(folder))
        for name, outcome in outcomes.items()
        for prompts, folder in (outcome.results or {}).items()
    }
    for result in loaded.values():
        targets += [target for target in result.summary().targets if target not in targets]
    for name, outcome in outcomes.items():
        method = CONTESTANTS[name]
        trained = "-" if method.group == ZERO_SHOT else _count(outcome.trained_parameters)
        cost = [trained, f"{outcome.minutes:.1f}", f"{outcome.peak_mb:.0f}"] if outcome.minutes else [trained, "-", "-"]
        for prompts in method.prompts:
            result = loaded.get((name, prompts))
            notes = (f"{method.title} failed: {outcome.failed}",) if result is None and outcome.failed else ()
            names = (Cell(method.title, notes=notes), Cell("none" if method.group == UNPROMPTED else prompts))
            figures = [Cell()] * (len(targets) + len(_METRICS)) if result is None else _figures(result, targets)
            rows.append(Row(method.group, names, tuple([*figures, *(Cell(text) for text in cost)])))
    rows.sort(key=lambda row: SECTIONS.index(row.section))  # a table's sections are in one piece
    best = _best(rows, len(targets) + len(_METRICS))
    best += _published(protocol, targets) if protocol else []
    headings = [*(f"{target} Dice" for target in targets), *(f"mean {HEADINGS[metric]}" for metric in _METRICS)]
    headings += ["trained", "min", "peak MB"]
    remarks = (
        "min: training, with reading and planning. peak MB: resident memory of the training process.",
        "By their published figures only: "
        + "; ".join(f"{name} ({system.reason})" for name, system in PUBLISHED_ONLY.items())
        + ("." if protocol else ". The paper has no table about this data set."),
    )
    return Grid(
        "", ("Method", "Prompts"), tuple(map(Cell, headings)), tuple(best), title, remarks, section_rows=True
    )  # fmt: skip


def _published(protocol: PaperProtocol, targets: list[str]) -> list[Row]:
    """The paper's rows: figures of single targets where a column is one of ours, and means as printed."""
    rows = []
    for method, figures, average, _ in protocol.published_rows():
        of_target, means = {}, {}
        for column, figure in zip(protocol.columns, figures, strict=True):
            if len(protocol.targets) == 1:
                means[column.metric] = figure
            if column.metric == "dice" and len(column.targets) == 1:
                of_target[column.targets[0]] = figure
        if average:
            means["dice"] = average
        cells = [Cell(of_target.get(target, NOTHING)) for target in targets]
        cells += [Cell(means.get(metric, NOTHING)) for metric in _METRICS] + [Cell()] * 3
        rows.append(Row("published (Wu et al.)", (Cell(method), Cell()), tuple(cells)))
    return rows


def _figures(result: EvaluationResult, targets: list[str]) -> list[Cell]:
    summary = result.summary()
    of_targets = [summary.targets[t].dice.mean if t in summary.targets else math.nan for t in targets]
    cells = [Cell(number(value, "dice")) for value in of_targets]
    return cells + [Cell(number(getattr(summary.overall, metric).mean, metric)) for metric in _METRICS]


def _best(rows: list[Row], num_figures: int) -> list[Row]:
    """The rows with the best figure of each section and column marked; HD95, the last figure, is best where least."""
    marked = []
    for row in rows:
        cells = list(row.cells)
        for column in range(num_figures):
            texts = [other.cells[column].text for other in rows if other.section == row.section]
            values = [float(text) for text in texts if text != Cell().text]
            choose = min if column == num_figures - 1 else max
            if len(values) > 1 and cells[column].text != Cell().text:
                cells[column] = Cell(cells[column].text, float(cells[column].text) == choose(values))
        marked.append(Row(row.section, row.names, tuple(cells)))
    return marked


def _count(parameters: int) -> str:
    return f"{parameters / 1e6:.2f} M" if parameters >= 1e4 else str(parameters)
