"""Intervals of means and paired comparisons, on values whose answers are known."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from medsam_adapter.errors import MSAInputError
from medsam_adapter.evaluation.metrics import MaskMetrics
from medsam_adapter.evaluation.results import CaseResult, EvaluationResult
from medsam_adapter.evaluation.statistics import compare, mean_interval, mean_of_columns

NAN = math.nan


def make_result(values, model="m", prompt=(1.0, 2.0, 3.0), voxels=12, **settings):
    """values: {case: {target: Dice}}; HD95 is 10 (1 - Dice). Where the reference is empty Dice is nan or 0."""

    def metrics(dice):
        if math.isnan(dice):
            return MaskMetrics(NAN, NAN, NAN, 0, 0, "both_empty")
        if dice == 0:
            return MaskMetrics(0.0, 0.0, NAN, 10, 0, "false_positive")
        return MaskMetrics(dice, dice / (2 - dice), 10 * (1 - dice), 10, voxels)

    cases = [
        CaseResult(case, target, metrics(dice), {"points": [prompt], "labels": [1]})
        for case, targets in values.items()
        for target, dice in targets.items()
    ]
    return EvaluationResult(model, "1-point per volume", cases, {"seed": 0, "protocol": "1-point", **settings})


def test_an_interval_covers_the_mean_about_as_often_as_it_says():
    rng = np.random.default_rng(0)
    hits = 0
    for _ in range(100):
        low, high = mean_interval(rng.normal(0.7, 0.1, 40))
        hits += low <= 0.7 <= high
    assert 86 <= hits <= 99


def test_an_interval_is_about_that_of_the_normal_distribution():
    values = np.random.default_rng(1).normal(0.5, 0.1, 200)
    error = values.std(ddof=1) / math.sqrt(len(values))
    low, high = mean_interval(values)
    assert low == pytest.approx(values.mean() - 1.96 * error, abs=0.15 * error)
    assert high == pytest.approx(values.mean() + 1.96 * error, abs=0.15 * error)


def test_an_interval_repeats_with_its_seed():
    values = np.random.default_rng(0).random(9)
    assert mean_interval(values) == mean_interval(values) != mean_interval(values, seed=1)


@pytest.mark.parametrize("values", [[], [0.5], [0.5, NAN]])
def test_fewer_than_two_cases_have_no_interval(values):
    assert all(map(math.isnan, mean_interval(np.array(values, float))))


def test_cases_without_value_count_for_nothing():
    values = np.random.default_rng(0).random(6)
    assert mean_interval(np.insert(values, [0, 3, 6], NAN)) == mean_interval(values)


def test_only_cases_with_a_value_in_a_column_that_counts_are_drawn():
    values = np.array([[0.2, NAN], [0.4, 0.5], [NAN, 0.9], [NAN, 0.7]])
    assert mean_interval(values, [[0]]) == mean_interval(values[:2, 0]) and mean_interval(values, [[0]]).low == 0.2
    assert all(map(math.isnan, mean_interval(values[1:], [[0]])))


def test_an_interval_stays_within_what_a_mean_can_be():
    low, high = mean_interval(np.array([1.0, 1.0, 1.0, 1.0, 0.0]))
    assert high == 1 and 0.3 < low < 0.5


def test_equal_values_have_an_interval_of_no_width():
    assert mean_interval(np.full(5, 0.25)) == (0.25, 0.25)


def test_targets_of_a_case_are_drawn_together():
    """The two targets err in opposite directions: their mean is the same in every case, so nothing is uncertain."""
    first = np.random.default_rng(0).random(12)
    low, high = mean_interval(np.stack([first, 1 - first], 1))
    assert (low, high) == pytest.approx((0.5, 0.5))


def test_columns_are_means_over_their_targets():
    values = np.array([[0.2, 0.4, 0.9], [0.4, NAN, 0.9]])
    assert mean_of_columns(values, [[0], [1], [2]]) == pytest.approx((0.3 + 0.4 + 0.9) / 3)
    assert mean_of_columns(values, [[0, 1], [2]]) == pytest.approx((0.35 + 0.9) / 2)
    assert math.isnan(mean_of_columns(np.full((2, 1), NAN), [[0]]))


A = {f"c{i}": {"liver": v, "spleen": v / 2} for i, v in enumerate((0.5, 0.6, 0.7, 0.8, 0.4, 0.3))}
B = {f"c{i}": {"liver": v, "spleen": A[f"c{i}"]["spleen"]} for i, v in enumerate((0.6, 0.72, 0.69, 0.83, 0.44, 0.35))}


def test_a_comparison_counts_and_tests_differences_by_case():
    liver, spleen, overall = compare(make_result(A), make_result(B, "n"))
    change = np.array([0.1, 0.12, -0.01, 0.03, 0.04, 0.05])
    assert (liver.target, liver.n, liver.better, liver.worse) == ("liver", 6, 5, 1)
    assert liver.difference == pytest.approx(change.mean())
    assert liver.other - liver.reference == pytest.approx(liver.difference)
    assert liver.p_value == pytest.approx(stats.wilcoxon(change).pvalue)
    assert liver.interval.low < liver.difference < liver.interval.high
    assert (spleen.better, spleen.worse, spleen.difference) == (0, 0, 0) and math.isnan(spleen.p_value)
    assert (overall.target, overall.difference) == ("Mean", pytest.approx(change.mean() / 2))
    assert (overall.better, overall.worse) == (5, 1)


def test_less_distance_is_better():
    liver = compare(make_result(A), make_result(B, "n"), "hd95_mm")[0]
    assert (liver.better, liver.worse) == (5, 1) and liver.difference < 0


def test_cases_in_any_order_are_paired():
    shuffled = {case: dict(reversed(B[case].items())) for case in reversed(B)}
    assert compare(make_result(A), make_result(shuffled, "n"))[0] == compare(make_result(A), make_result(B, "n"))[0]


def test_a_case_without_value_in_one_model_is_left_out_of_both():
    first, second = ({**each, "c0": {"liver": value, "spleen": 0.1}} for each, value in ((A, 0.0), (B, NAN)))
    liver = compare(make_result(first), make_result(second, "n"))[0]
    assert liver.n == 5 and liver.reference == pytest.approx(np.mean([0.6, 0.7, 0.8, 0.4, 0.3]))


def test_stored_results_are_compared_as_those_in_memory(tmp_path):
    first, second = make_result(A), make_result(B, "n")
    stored = EvaluationResult.load(second.save(tmp_path))
    assert compare(first, stored)[0] == compare(first, second)[0]


@pytest.mark.parametrize(
    ("other", "said"),
    [
        (make_result({k: v for k, v in B.items() if k != "c3"}, "n"), ["other cases or targets", "only m has 2", "c3"]),
        (make_result({**B, "c9": {"liver": 0.5}}, "n"), ["other cases or targets", "only n has 1, such as c9 liver"]),
        (make_result(B, "n", prompt=(1.0, 2.0, 4.0)), ["c0 liver was prompted otherwise"]),
        (make_result(B, "n", seed=3), ["another seed", "found: 3"]),
        (make_result(B, "n", protocol="box"), ["another kind of prompts", "found: box"]),
        (make_result(B, "n", voxels=13), ["another reference", "12 voxels", "13 voxels"]),
    ],
)
def test_what_cannot_be_compared_is_refused(other, said):
    with pytest.raises(MSAInputError) as error:
        compare(make_result(A), other)
    assert all(text in str(error.value) for text in said), str(error.value)
