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
from medsam_adapter.evaluation.tables import HEADINGS, mark_best

SECTIONS = (ZERO_SHOT, PROMPTED, UNPROMPTED)
_METRICS = ("dice", "iou", "hd95_mm")


def comparison_grid(outcomes: Mapping[str, Outcome], title: str, protocol: PaperProtocol | None = None) -> Grid:
    """Targets' Dice, the means of Dice, IoU and HD95, what was trained, for how long and with how much memory.

    Args:
        protocol: the table of the paper about this data set, whose printed rows are shown in a section of their own.

    A method that failed has a row with the reason as its footnote. The best figure of each column is marked; methods
    with and without prompts are different in what a person has to do, so each section has its own best.
    """
    measured: list[tuple[str, tuple[Cell, ...], list[float], list[Cell]]] = []
    targets: list[str] = []
    loaded = {
        (name, prompts): EvaluationResult.load(Path(folder))
        for name, outcome in outcomes.items()
        for prompts, folder in outcome.results.items()
    }
    for scored in loaded.values():
        targets += [target for target in scored.summary().targets if target not in targets]
    for name, outcome in outcomes.items():
        method = CONTESTANTS[name]
        trained = "-" if method.group == ZERO_SHOT else _count(outcome.trained_parameters)
        cost = [trained, f"{outcome.minutes:.1f}", f"{outcome.peak_mb:.0f}"] if outcome.minutes else [trained, "-", "-"]
        for prompts in method.prompts:
            result = loaded.get((name, prompts))
            notes = (f"{method.title} failed: {outcome.failed}",) if result is None and outcome.failed else ()
            names = (Cell(method.title, notes=notes), Cell("none" if method.group == UNPROMPTED else prompts))
            measured.append((method.group, names, _figures(result, targets), [Cell(text) for text in cost]))
    measured.sort(key=lambda row: SECTIONS.index(row[0]))  # a table's sections are in one piece
    marked = _marked([figures for _, _, figures, _ in measured], [section for section, *_ in measured])
    rows = [
        Row(section, names, (*cells, *costs))
        for (section, names, _, costs), cells in zip(measured, marked, strict=True)
    ]
    rows += _published(protocol, targets) if protocol else []
    headings = [*(f"{target} Dice" for target in targets), *(f"mean {HEADINGS[metric]}" for metric in _METRICS)]
    headings += ["trained", "min", "peak MB"]
    remarks = (
        "min: training, with reading and planning. peak MB: resident memory of the training process.",
        "By their published figures only: "
        + "; ".join(f"{name} ({system.reason})" for name, system in PUBLISHED_ONLY.items())
        + ("." if protocol else ". The paper has no table about this data set."),
    )
    return Grid(
        "", ("Method", "Prompts"), tuple(map(Cell, headings)), tuple(rows), title, remarks, section_rows=True
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


def _figures(result: EvaluationResult | None, targets: list[str]) -> list[float]:
    """Dice of each target, then the means of Dice, IoU and HD95; nan where there is none."""
    if result is None:
        return [math.nan] * (len(targets) + len(_METRICS))
    summary = result.summary()
    of_targets = [summary.targets[t].dice.mean if t in summary.targets else math.nan for t in targets]
    return of_targets + [getattr(summary.overall, metric).mean for metric in _METRICS]


def _marked(figures: list[list[float]], sections: list[str]) -> list[list[Cell]]:
    """The figures as cells, the best of each section and column marked."""
    cells: list[list[Cell]] = [[] for _ in figures]
    metrics = ["dice"] * (len(figures[0]) - len(_METRICS)) + list(_METRICS) if figures else []
    for section in dict.fromkeys(sections):
        places = [place for place, other in enumerate(sections) if other == section]
        for column, metric in enumerate(metrics):
            marked = mark_best([figures[place][column] for place in places], metric)
            for place, cell in zip(places, marked, strict=True):
                cells[place].append(cell)
    return cells


def _count(parameters: int) -> str:
    return f"{parameters / 1e6:.2f} M" if parameters >= 1e4 else str(parameters)
