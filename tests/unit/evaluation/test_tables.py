"""Tables on wide and narrow terminals, in pipes and as Markdown."""

from __future__ import annotations

import io
import math

import pytest
from rich.console import Console

from medsam_adapter.evaluation.metrics import MaskMetrics
from medsam_adapter.evaluation.results import CaseResult, EvaluationResult
from medsam_adapter.evaluation.tables import mark_best, print_results, table_rows, to_markdown


def make_result(model, values):
    cases = [
        CaseResult("a", target, MaskMetrics(dice, dice / (2 - dice), 10 * (1 - dice), 1, 1)) for target, dice in values
    ]
    return EvaluationResult(model, "1 click", cases)


@pytest.fixture
def results():
    return [
        make_result("SAM", [("liver", 0.5), ("spleen", 0.9)]),
        make_result("msa|tiny [b]", [("liver", 0.8), ("cup", 0.25)]),
    ]


def printed(results, width, is_terminal, **options):
    out = io.StringIO()
    print_results(results, Console(file=out, width=width, force_terminal=is_terminal, color_system=None), **options)
    return out.getvalue()


def test_rows_by_metric_then_model(results):
    rows = table_rows(results, ["dice", "hd95_mm"])
    assert [(row.metric, row.model) for row in rows] == [
        ("dice", "SAM"),
        ("dice", "msa|tiny [b]"),
        ("hd95_mm", "SAM"),
        ("hd95_mm", "msa|tiny [b]"),
    ]
    assert rows[0].values == {"liver": 0.5, "spleen": 0.9} and rows[0].mean == pytest.approx(0.7)


def test_markdown_marks_the_best_and_keeps_its_columns(results):
    lines = to_markdown(table_rows(results)).splitlines()
    assert lines[0] == "| Metric | Model | Prompts | liver | spleen | cup | Mean |"
    assert lines[2] == "| Dice | SAM | 1 click | 0.500 | 0.900 | - | **0.700** |"
    assert lines[3] == "| Dice | msa\\|tiny [b] | 1 click | **0.800** | - | 0.250 | 0.525 |"
    assert lines[6].startswith("| HD95 (mm) | SAM | 1 click | 5.00 | ")  # less is better
    assert lines[7].startswith("| HD95 (mm) | msa\\|tiny [b] | 1 click | **2.00** | ")
    assert {line.replace("\\|", "").count("|") for line in lines} == {8}


def test_one_result_has_no_best(results):
    assert "**" not in to_markdown(table_rows(results[:1]))


def test_digits_that_read_the_same_are_equally_good():
    pair = [make_result("a", [("liver", 0.80001)]), make_result("b", [("liver", 0.80002)])]
    assert to_markdown(table_rows(pair, ["dice"])).count("**0.800**") == 4


def test_a_value_that_stands_alone_in_its_column_is_not_the_best():
    assert not any(cell.is_best for cell in mark_best([0.8, math.nan], "dice"))
    assert [cell.is_best for cell in mark_best([0.8, math.nan, 0.7], "dice")] == [True, False, False]


def test_no_results_at_all():
    assert to_markdown([]).startswith("| Metric")
    assert printed(EvaluationResult("empty", "box"), 80, False)


def test_wide_terminal_puts_models_side_by_side(results):
    text = printed(results, 120, True)
    header = next(line for line in text.splitlines() if "liver" in line)
    assert "spleen" in header and "Mean" in header
    assert "msa|tiny [b]" in text and "0.525" in text


def test_a_pipe_is_never_cut():
    result = make_result("model", [(f"organ_{index:02d}", 0.5) for index in range(15)])
    text = printed(result, 80, False)
    header = next(line for line in text.splitlines() if "organ_00" in line)
    assert "organ_14" in header and "Mean" in header and "…" not in text


def test_a_narrow_terminal_gets_a_line_for_each_target():
    result = make_result("model", [(f"organ_{index:02d}", 0.5) for index in range(15)])
    text = printed(result, 50, True)
    table = [line for line in text.splitlines() if "organ_" in line]
    assert len(table) == 15 and all("0.500" in line for line in table)
    assert max(map(len, text.splitlines()[:-1])) <= 50


def test_what_means_leave_out_is_said():
    nan = math.nan
    cases = [
        CaseResult("a", "liver", MaskMetrics(nan, nan, nan, 0, 0, "both_empty")),
        CaseResult("b", "liver", MaskMetrics(0.0, 0.0, 9.0, 0, 4, "missed")),
        CaseResult("c", "liver", MaskMetrics(0.0, 0.0, nan, 4, 0, "false_positive")),
    ]
    text = printed(EvaluationResult("m", "box", cases), 80, False)
    assert "masks scored: 2, cases: 3; 1 left out" in text and "1 missed" in text and "1 where nothing" in text
