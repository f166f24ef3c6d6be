"""Measured figures in the paper's columns; comparison tables; model-index."""

from __future__ import annotations

import csv
import io
import math

import pytest
import yaml
from huggingface_hub import ModelCard
from rich.console import Console

from medsam_adapter.evaluation.comparison_table import comparison_grid
from medsam_adapter.evaluation.exports import model_index, to_csv, write_model_index
from medsam_adapter.evaluation.grids import print_grid, to_markdown
from medsam_adapter.evaluation.metrics import MaskMetrics
from medsam_adapter.evaluation.paper_table import MEASURED, PUBLISHED, interval_grid, paper_grid
from medsam_adapter.evaluation.published.protocols import PAPER_PROTOCOLS, paper_protocol
from medsam_adapter.evaluation.results import CaseResult, EvaluationResult
from medsam_adapter.evaluation.statistics import mean_interval


def make_result(values, model="mine", cases=("a", "b", "c")):
    """values: {target: Dice of the first case}, each further case 0.01 better; IoU follows, HD95 is 10 (1 - Dice)."""
    rows = []
    for number, case in enumerate(cases):
        for target, first in values.items():
            dice = first + 0.01 * number
            rows.append(CaseResult(case, target, MaskMetrics(dice, dice / (2 - dice), 10 * (1 - dice), 1, 1)))
    settings = {"dataset": "My Data (v2)", "part": "test", "seed": 0, "model_sha256": "0123456789abcdef"}
    return EvaluationResult(model, "1-point per volume", rows, settings)


BTCV = {target: 0.5 + 0.02 * i for i, target in enumerate(paper_protocol("btcv").targets)}


def lines_of(grid):
    return list(csv.DictReader(io.StringIO(to_csv(grid))))


def test_all_published_rows_and_the_measured_one():
    lines = lines_of(paper_grid(paper_protocol("btcv"), [make_result(BTCV)]))
    assert [line["Source"] for line in lines] == [PUBLISHED] * 12 + [MEASURED]
    assert lines[11]["Method"] == "MSA 1 point" and lines[11]["Ave"] == "0.883"
    mine = lines[-1]
    assert mine["Method"] == "mine, 1-point" and mine["Spleen"] == "0.510" and mine["Panc."] == "0.710"
    glands = (BTCV["right adrenal gland"] + BTCV["left adrenal gland"]) / 2 + 0.01
    assert mine["AG"] == f"{glands:.3f}"
    others = [value + 0.01 for target, value in BTCV.items() if "adrenal" not in target]
    assert mine["Ave"] == f"{(sum(others) + glands) / 12:.3f}"  # of 12 columns, not of 13 targets
    assert mine["Notes"] == ""


def test_missing_columns_are_left_out_of_the_average_and_named():
    values = {target: BTCV[target] for target in ("spleen", "liver", "left adrenal gland")}
    mine = lines_of(paper_grid(paper_protocol("btcv"), [make_result(values)]))[-1]
    assert mine["AG"] == "", "half of the glands is not what the column holds"
    assert mine["Aorta"] == "" and mine["Ave"] == f"{(values['spleen'] + values['liver']) / 2 + 0.01:.3f}"
    assert mine["Notes"].startswith("Mean of the 2 measured columns, without R.Kid, L.Kid") and "AG" in mine["Notes"]


def test_the_last_column_of_amos_is_prostate_or_uterus():
    values = {"inferior vena cava": 0.3, "prostate or uterus": 0.6}
    grid = paper_grid(paper_protocol("amos22"), [make_result(values)])
    mine = lines_of(grid)[-1]
    assert (mine["IVC"], mine["Postc."]) == ("0.310", "0.610")
    assert "prostate or uterus" in to_markdown(grid)


def test_metrics_have_columns_of_their_own():
    mine = lines_of(paper_grid(paper_protocol("brain-tumor"), [make_result({"Whole Tumor": 0.5})]))[-1]
    assert (mine["Dice"], mine["HD95 (mm)"]) == ("0.510", "4.90") and 0.34 < float(mine["IoU"]) < 0.35


def test_isic_has_measured_rows_only():
    lines = lines_of(paper_grid(paper_protocol("isic"), [make_result({"skin lesion": 0.5})]))
    assert [line["Source"] for line in lines] == [MEASURED]


def test_only_measured_rows_are_compared_with_each_other():
    grid = paper_grid(paper_protocol("isic"), [make_result({"skin lesion": v}, f"m{v}") for v in (0.5, 0.7)])
    assert [row.cells[0].is_best for row in grid.rows] == [False, True]
    grid = paper_grid(paper_protocol("btcv"), [make_result(BTCV)])
    assert not any(cell.is_best for row in grid.rows for cell in row.cells)


def test_notes_and_weights_are_said_below():
    grid = paper_grid(paper_protocol("btcv"), [make_result(BTCV)], ["Phantoms, not BTCV."])
    text = to_markdown(grid)
    assert "Phantoms, not BTCV." in text and "weights 0123456789." in text
    assert "SAM 3 points: printed as 0.631; the mean of its printed columns is 0.605." in text


@pytest.mark.parametrize("name", PAPER_PROTOCOLS)
@pytest.mark.parametrize("width", [80, 200])
def test_tables_fit_the_terminal(name, width):
    protocol = paper_protocol(name)
    results = [make_result({target: 0.5 for target in protocol.targets}, model) for model in ("sam-tiny", "msa-run-2")]
    out = io.StringIO()
    console = Console(file=out, width=width, force_terminal=True, color_system=None)
    for grid in (paper_grid(protocol, results), interval_grid(protocol, results), comparison_grid(*results)):
        print_grid(grid, console)
    assert max(map(len, out.getvalue().splitlines())) <= width
    assert out.getvalue().count("sam-tiny, 1-point ") >= 2 and "…" not in out.getvalue()


def test_intervals_by_target_and_of_the_average():
    lines = lines_of(interval_grid(paper_protocol("btcv"), [make_result(BTCV), make_result({"liver": 0.4}, "other")]))
    assert [line["Target"] for line in lines] == [*paper_protocol("btcv").targets, "Ave"]
    liver = lines[5]
    low, high = BTCV["liver"], BTCV["liver"] + 0.02
    assert liver["mine, 1-point"] == f"{BTCV['liver'] + 0.01:.3f} [{low:.3f}, {high:.3f}] n=3"
    assert liver["other, 1-point"].startswith("0.410 [") and lines[0]["other, 1-point"] == ""
    measured = lines_of(paper_grid(paper_protocol("btcv"), [make_result(BTCV)]))[-1]
    assert lines[-1]["mine, 1-point"].split()[0] == measured["Ave"]


def test_the_interval_of_the_average_weighs_columns_as_the_average_does():
    result = make_result({"spleen": 0.5, "right adrenal gland": 0.2, "left adrenal gland": 0.4})
    glands = [case for case in result.cases if "adrenal" in case.target]
    for number, case in enumerate(glands):
        case.metrics = MaskMetrics(0.1 * number, 0.1, 1.0, 1, 1)
    _, targets, values = result.case_values("dice")
    assert targets[0] == "spleen"
    low, high = mean_interval(values, [[0], [1, 2]])
    line = lines_of(interval_grid(paper_protocol("btcv"), [result]))[-1]
    assert f" [{low:.3f}, {high:.3f}] " in line["mine, 1-point"]
    assert (low, high) != mean_interval(values)


def test_one_case_has_no_interval():
    [line, *_] = lines_of(interval_grid(paper_protocol("isic"), [make_result({"skin lesion": 0.5}, cases=("a",))]))
    assert line["mine, 1-point"] == "0.500 n=1"


def test_a_comparison_says_who_is_who():
    first, second = make_result({"liver": 0.5, "spleen": 0.6}), make_result({"liver": 0.7, "spleen": 0.5}, "new")
    grid = comparison_grid(first, second, ["dice"])
    assert grid.title.startswith("new (other) against mine (reference)")
    liver, spleen, overall = lines_of(grid)
    assert liver["difference"].startswith("+0.200 [+0.200, +0.200]") and liver["won/lost"] == "3/0"
    assert spleen["difference"].startswith("-0.100") and spleen["won/lost"] == "0/3"
    assert (overall["Target"], overall["ref."], overall["other"]) == ("Mean", "0.560", "0.610")
    assert liver["p"] == "0.250"  # the least that three cases can give


def test_model_index_is_what_the_hub_reads(tmp_path):
    results = [make_result({"liver": 0.5, "cup": math.nan, "spleen": 0.6})]
    write_model_index(tmp_path / "index.yaml", "mine", results)
    metadata = yaml.safe_load((tmp_path / "index.yaml").read_text())
    assert metadata == {"model-index": model_index("mine", results)}
    card = ModelCard(f"---\n{yaml.safe_dump(metadata)}---\n")
    found = {(each.metric_type, each.metric_name): each for each in card.data.eval_results}
    assert card.data.model_name == "mine" and len(found) == 9  # three metrics; liver, spleen and their mean
    mean = found["dice", "Dice, mean over targets, 1-point per volume"]
    assert (mean.metric_value, mean.dataset_name, mean.dataset_type) == (0.56, "My Data (v2)", "my-data-v2")
    assert (mean.task_type, mean.dataset_split) == ("image-segmentation", "test")
    assert mean.metric_args["model_sha256"] == "0123456789abcdef"


def test_no_figures_no_model_index():
    assert model_index("mine", [EvaluationResult("mine", "box")]) == []
