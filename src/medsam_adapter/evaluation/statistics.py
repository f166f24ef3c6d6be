"""How sure a mean is, and whether two models differ: bootstrap over cases, and paired comparison.

Cases are what is drawn: all targets of a case stay together, because they share its image. Where a patient has several
cases, intervals are too narrow.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from ..errors import MSAInputError
from .results import CaseResult, EvaluationResult

LEVEL, RESAMPLES, SEED = 0.95, 5000, 0
OVERALL = "Mean"


class Interval(NamedTuple):
    """Of a mean; nan, nan for fewer than two cases."""

    low: float
    high: float


@dataclass(frozen=True)
class Difference:
    """One target under two models.

    Attributes:
        target: its name, or `OVERALL`.
        n: cases in which both models have a value; others are left out.
        reference, other: the means of the two models over these cases (overall: the mean over targets of such means).
        difference: other - reference, with its interval.
        p_value: Wilcoxon's signed-rank test, two-sided, of the differences of cases (overall: of the mean over the
            targets of a case); nan if no case differs. Not corrected for the number of targets.
        better, worse: cases in which the other model is better and worse than the reference.
    """

    target: str
    n: int
    reference: float
    other: float
    difference: float
    interval: Interval
    p_value: float
    better: int
    worse: int


def mean_of_columns(values: np.ndarray, columns: Sequence[Sequence[int]]) -> np.ndarray:
    """The mean over cases of each target, over the targets of each column, and over columns.

    Args:
        values: (..., cases, targets), nan where there is no value.
        columns: indices of the targets of each column.

    Returns:
        (...) float: what has no value at all counts for nothing; nan if nothing has.
    """
    of_targets = _nanmean(values, -2)
    of_columns = np.stack([_nanmean(of_targets[..., list(column)], -1) for column in columns], -1)
    return _nanmean(of_columns, -1)


def mean_interval(
    values: np.ndarray, columns: Sequence[Sequence[int]] | None = None, *, seed: int = SEED, level: float = LEVEL
) -> Interval:
    """Percentile bootstrap of a mean, drawing cases with replacement.

    Args:
        values: (cases,) or (cases, targets), nan where there is no value.
        columns: as in `mean_of_columns`; a column for each target if None. Only cases with a value in one are drawn.
        seed: of the draws: the same values give the same interval.
    """
    values = values[:, None] if values.ndim == 1 else values
    columns = [[i] for i in range(values.shape[1])] if columns is None else columns
    used = sorted({i for column in columns for i in column})
    values = values[~np.isnan(values[:, used]).all(1)]
    if len(values) < 2:
        return Interval(math.nan, math.nan)
    from scipy.stats import bootstrap  # here: it takes a second to import, and most of the command line needs none

    found = bootstrap(
        (np.arange(len(values)),), lambda drawn, axis: mean_of_columns(values[drawn], columns), vectorized=True,
        n_resamples=RESAMPLES, batch=500, confidence_level=level, method="percentile", rng=np.random.default_rng(seed),
    )  # fmt: skip
    return Interval(float(found.confidence_interval.low), float(found.confidence_interval.high))


def compare(
    reference: EvaluationResult, other: EvaluationResult, metric: str = "dice", *, seed: int = SEED
) -> list[Difference]:
    """Two models on the same cases with the same prompts: a `Difference` for each target, and overall where there are
    several.

    Raises:
        MSAInputError: results on other cases, targets, references, prompts or seeds.
    """
    check_comparable(reference, other)
    cases, targets, first = reference.case_values(metric)
    rows, names, values = other.case_values(metric)
    second = values[np.ix_([rows.index(case) for case in cases], [names.index(target) for target in targets])]
    is_missing = np.isnan(first) | np.isnan(second)
    first, second = np.where(is_missing, math.nan, first), np.where(is_missing, math.nan, second)
    sign = -1 if metric == "hd95_mm" else 1
    found = [_difference(t, first[:, [i]], second[:, [i]], sign, seed) for i, t in enumerate(targets)]
    return [*found, _difference(OVERALL, first, second, sign, seed)] if len(targets) > 1 else found


def check_comparable(reference: EvaluationResult, other: EvaluationResult) -> None:
    """Raises MSAInputError unless both results are about the same cases, targets and references, with the same prompts
    from the same seed."""
    names = f"{reference.model} and {other.model}"
    hint = "evaluate both in one call, or the second with --replay and the prompts.json of the first"
    for key in ("protocol", "per", "seed"):
        pair = [each.settings.get(key) for each in (reference, other)]
        if None not in pair and pair[0] != pair[1]:
            raise MSAInputError(
                f"the results of {names} cannot be compared: they were made with another "
                + {"protocol": "kind of prompts", "per": "unit of prompting", "seed": "seed"}[key],
                expected=str(pair[0]), found=str(pair[1]), hint=hint,
            )  # fmt: skip
    first, second = _entries(reference), _entries(other)
    if first.keys() != second.keys():
        only = [sorted(set(a) - set(b)) for a, b in ((first, second), (second, first))]
        told = [
            f"only {each.model} has {len(keys)}, such as {' '.join(keys[0][:2])}"
            for each, keys in zip((reference, other), only, strict=True) if keys
        ]  # fmt: skip
        raise MSAInputError(
            f"the results of {names} cannot be compared: other cases or targets",
            expected="the same cases and targets in both", found="; ".join(told), hint=hint,
        )  # fmt: skip
    for entry, one in first.items():
        two = second[entry]
        if one.metrics.reference_voxels != two.metrics.reference_voxels:
            raise MSAInputError(
                f"the results of {names} cannot be compared: {' '.join(entry[:2])} has another reference",
                expected=f"{one.metrics.reference_voxels} voxels", found=f"{two.metrics.reference_voxels} voxels",
                hint="evaluate both on the same version of the data set",
            )  # fmt: skip
        if _listed(one.prompts) != _listed(two.prompts):
            raise MSAInputError(
                f"the results of {names} cannot be compared: {' '.join(entry[:2])} was prompted otherwise",
                expected=str(one.prompts), found=str(two.prompts), hint=hint,
            )  # fmt: skip


def _entries(result: EvaluationResult) -> dict[tuple[str, str, str], CaseResult]:
    found: dict[tuple[str, str, str], CaseResult] = {}
    for case in result.cases:
        number, name = 1, case.object
        while (case.case_id, case.target, name) in found:  # objects without names, repeated draws: by their order
            number += 1
            name = f"{case.object}#{number}"
        found[case.case_id, case.target, name] = case
    return found


def _listed(value):
    """As JSON gives it back: tuples and arrays as lists."""
    if isinstance(value, dict):
        return {key: _listed(item) for key, item in value.items()}
    if isinstance(value, np.ndarray):
        return value.tolist()
    return [_listed(item) for item in value] if isinstance(value, (list, tuple)) else value


def _difference(target: str, first: np.ndarray, second: np.ndarray, sign: int, seed: int) -> Difference:
    """`first`, `second`: (cases, targets) with nan at the same places; `sign`: 1 where more is better, else -1."""
    columns = [[i] for i in range(first.shape[1])]
    of_cases = _nanmean(second - first, 1)
    of_cases = of_cases[~np.isnan(of_cases)]
    return Difference(
        target,
        len(of_cases),
        float(mean_of_columns(first, columns)),
        float(mean_of_columns(second, columns)),
        float(mean_of_columns(second - first, columns)),
        mean_interval(second - first, seed=seed),
        _wilcoxon(of_cases),
        int((sign * of_cases > 0).sum()),
        int((sign * of_cases < 0).sum()),
    )


def _wilcoxon(differences: np.ndarray) -> float:
    if not differences.any():
        return math.nan
    from scipy.stats import wilcoxon

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # few cases or ties: scipy says that p is approximate
        return float(wilcoxon(differences).pvalue)


def _nanmean(values: np.ndarray, axis: int) -> np.ndarray:
    """numpy's nanmean without its warning about rows of nan."""
    is_there = ~np.isnan(values)
    counts = is_there.sum(axis)
    with np.errstate(invalid="ignore"):
        return np.where(is_there, values, 0).sum(axis) / counts
