"""The table of a paired comparison of two models."""

from __future__ import annotations

import math
from collections.abc import Sequence

from .grids import NOTHING, Cell, Grid, Row
from .metrics import METRIC_NAMES
from .results import EvaluationResult
from .statistics import RESAMPLES, SEED, compare
from .tables import HEADINGS, number

_HEADINGS = ("n", "ref.", "other", "difference", "p", "won/lost")
_REMARK = (
    "n: cases in which both have a value; means are over these. difference: other - reference, in brackets its 95 % "
    f"interval (percentile bootstrap over cases, {RESAMPLES} draws, seed {SEED}). p: Wilcoxon's signed-rank test of "
    "the cases' differences, two-sided, not corrected for the number of targets. won/lost: cases in which the other "
    "model is better and worse."
)


def comparison_grid(
    reference: EvaluationResult, other: EvaluationResult, metrics: Sequence[str] = METRIC_NAMES
) -> Grid:
    """Two models on the same cases with the same prompts, target by target.

    Raises:
        MSAInputError: as `statistics.compare`.
    """
    rows = []
    for metric in metrics:
        for each in compare(reference, other, metric):
            low, high = (_signed(value, metric) for value in each.interval)
            interval = f" [{low}, {high}]" if not math.isnan(each.interval.low) else ""
            texts = (
                str(each.n), number(each.reference, metric), number(each.other, metric),
                _signed(each.difference, metric) + interval, _p_value(each.p_value), f"{each.better}/{each.worse}",
            )  # fmt: skip
            rows.append(Row(HEADINGS[metric], (Cell(each.target),), tuple(map(Cell, texts))))
    title = f"{other.model} (other) against {reference.model} (reference), {other.asked}, case by case"
    return Grid("Metric", ("Target",), tuple(map(Cell, _HEADINGS)), tuple(rows), title, (_REMARK,), section_rows=True)


def _signed(value: float, metric: str) -> str:
    text = number(value, metric)
    return text if text.startswith("-") or float(text) == 0 else f"+{text}"


def _p_value(value: float) -> str:
    return NOTHING if math.isnan(value) else "<0.001" if value < 0.001 else f"{value:.3f}"
