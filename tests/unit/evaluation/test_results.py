"""Means by the rule, and results that come back from disk as they were."""

from __future__ import annotations

import csv
import json
import math
from pathlib import Path

import numpy as np
import pytest

from medsam_adapter.errors import MSAError, MSAInputError
from medsam_adapter.evaluation.metrics import MaskMetrics
from medsam_adapter.evaluation.results import CaseResult, EvaluationResult, Statistics

NAN = math.nan


def scored(dice, hd95_mm=1.0):
    return MaskMetrics(dice, dice / (2 - dice), hd95_mm, 10, 12)


@pytest.fixture
def result():
    cases = [
        CaseResult("a", "liver", scored(0.9, 2.0), {"points_xy": np.array([[3, 4]]), "labels": [1]}, 0.5),
        CaseResult("b", "liver", scored(0.7, 4.0)),
        CaseResult("c", "liver", scored(0.8, 9.0)),
        CaseResult("a", "spleen", scored(0.4, 6.0)),
        CaseResult("b", "spleen", MaskMetrics(NAN, NAN, NAN, 0, 0, "both_empty")),
        CaseResult("c", "spleen", MaskMetrics(0.0, 0.0, NAN, 5, 0, "false_positive")),
        CaseResult("d", "spleen", MaskMetrics(0.0, 0.0, 60.0, 0, 5, "missed")),
    ]
    return EvaluationResult("org/msa-tiny", "1 click", cases, {"seed": 7, "versions": {"torch": "2.13.0"}})


def test_summary_is_the_mean_over_cases_then_over_targets(result):
    summary = result.summary()
    liver, spleen, overall = summary.targets["liver"], summary.targets["spleen"], summary.overall
    assert list(summary.targets) == ["liver", "spleen"]
    assert liver.dice == Statistics(pytest.approx(0.8), pytest.approx(0.1), 0.8, 3)
    assert (spleen.dice.mean, spleen.dice.n) == (pytest.approx(0.4 / 3), 3)
    assert (spleen.hd95_mm.mean, spleen.hd95_mm.n) == (33.0, 2)
    assert (spleen.n, spleen.n_excluded, spleen.n_missed, spleen.n_false_positive) == (3, 1, 1, 1)
    assert overall.dice.mean == pytest.approx((0.8 + 0.4 / 3) / 2)
    assert (overall.dice.n, overall.n, overall.n_excluded) == (2, 6, 1)


def test_objects_of_one_case_count_as_one_case():
    cases = [CaseResult("a", "nucleus", scored(value)) for value in (0.2, 0.4, 0.6)]
    summary = EvaluationResult("m", "box", [*cases, CaseResult("b", "nucleus", scored(0.8))]).summary()
    assert summary.overall.dice.mean == pytest.approx((0.4 + 0.8) / 2)
    assert summary.overall.n == 2


def test_a_target_without_any_score_does_not_spoil_the_mean(result):
    result.cases.append(CaseResult("a", "cup", MaskMetrics(NAN, NAN, NAN, 0, 0, "both_empty")))
    summary = result.summary()
    assert math.isnan(summary.targets["cup"].dice.mean) and summary.targets["cup"].n_excluded == 1
    assert summary.overall.dice.n == 2


def test_no_cases_and_one_case():
    assert math.isnan(EvaluationResult("m", "box").summary().overall.dice.mean)
    one = EvaluationResult("m", "box", [CaseResult("a", "liver", scored(0.5))]).summary().overall.dice
    assert one.mean == 0.5 and math.isnan(one.std)


def test_round_trip(result, tmp_path):
    folder = result.save(tmp_path / "new" / "folder")
    loaded = EvaluationResult.load(folder)
    assert loaded.model == result.model and loaded.protocol == result.protocol and loaded.settings == result.settings
    assert repr(loaded.cases[1:]) == repr(result.cases[1:])  # repr, because nan is not equal to nan
    assert loaded.cases[0].prompts == {"points_xy": [[3, 4]], "labels": [1]}
    assert repr(loaded.summary()) == repr(result.summary())
    assert repr(EvaluationResult.load(folder / "results.json")) == repr(loaded)


def test_files_are_plain_and_whole(result, tmp_path):
    result.save(tmp_path)
    result.save(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["prompts.json", "results.csv", "results.json"]
    text = (tmp_path / "results.json").read_text(encoding="utf-8")
    assert "NaN" not in text
    assert json.loads(text)["summary"]["overall"]["n_excluded"] == 1
    rows = list(csv.DictReader((tmp_path / "results.csv").open(encoding="utf-8")))
    assert len(rows) == len(result.cases)
    assert rows[0]["case_id"] == "a" and float(rows[0]["dice"]) == 0.9 and float(rows[0]["seconds"]) == 0.5
    assert (rows[4]["status"], rows[4]["dice"], rows[4]["hd95_mm"]) == ("both_empty", "", "")


def test_a_failed_save_leaves_the_old_file(result, tmp_path):
    result.save(tmp_path)
    before = (tmp_path / "results.json").read_bytes()
    result.settings["model"] = object()
    with pytest.raises(MSAError, match="JSON"):
        result.save(tmp_path)
    assert (tmp_path / "results.json").read_bytes() == before
    assert len(list(tmp_path.iterdir())) == 3


def test_values_of_cases_have_the_means_of_the_summary(result):
    result.cases.append(CaseResult("a", "liver", scored(0.5, 8.0)))  # drawn again: averaged with the first
    summary = result.summary()
    for metric in ("dice", "iou", "hd95_mm"):
        cases, targets, values = result.case_values(metric)
        assert (cases, targets) == (["a", "b", "c", "d"], ["liver", "spleen"])
        means = [getattr(summary.targets[target], metric).mean for target in targets]
        assert np.nanmean(values, 0) == pytest.approx(means)
    dice = result.case_values("dice")[2]
    assert dice[0, 0] == pytest.approx(0.7) and np.isnan(dice[3, 0]) and np.isnan(dice[1, 1]) and dice[2, 1] == 0


def test_prompts_stand_by_case_and_target(result, tmp_path):
    result.settings |= {"protocol": "1-point", "per": "volume"}
    result.cases += [CaseResult("a", "object", scored(0.5), {"labels": [n]}, object=f"object {n}") for n in (3, 7)]
    result.save(tmp_path)
    content = json.loads((tmp_path / "prompts.json").read_text())
    assert (content["protocol"], content["per"], content["seed"]) == ("1-point", "volume", 7)
    assert content["cases"]["a"]["liver"] == {"points_xy": [[3, 4]], "labels": [1]}
    assert content["cases"]["b"]["spleen"] is None
    assert content["cases"]["a"]["object 7"] == {"labels": [7]}
    assert EvaluationResult.load(tmp_path).cases[-1].object == "object 7"


def test_raters_come_back_and_older_files_have_none(result, tmp_path):
    result.raters = {"expert 1": [CaseResult("a", "liver", scored(0.3))]}
    loaded = EvaluationResult.load(result.save(tmp_path))
    assert repr(loaded.raters) == repr(result.raters)
    assert loaded.against_raters()[0].protocol == "1 click, against expert 1"
    content = json.loads((tmp_path / "results.json").read_text())
    del content["raters"]
    for case in content["cases"]:
        del case["object"]
    (tmp_path / "results.json").write_text(json.dumps(content))
    older = EvaluationResult.load(tmp_path)
    assert older.raters == {} and repr(older.cases[1:]) == repr(result.cases[1:])


def test_settings_may_hold_paths_and_numpy(tmp_path):
    settings = {"data": Path("a/b"), "seed": np.int64(3), "share": np.float32(0.5), "on": np.bool_(True), 1: (1, 2)}
    EvaluationResult("m", "box", [], settings).save(tmp_path)
    expected = {"data": str(Path("a/b")), "seed": 3, "share": 0.5, "on": True, "1": [1, 2]}
    assert EvaluationResult.load(tmp_path).settings == expected


@pytest.mark.parametrize(
    "text", ["", "{", "[]", "{}", '"text"', '{"format_version": 99}', '{"format_version": 1, "cases": [3]}']
)
def test_other_files_are_refused(tmp_path, text):
    (tmp_path / "results.json").write_text(text)
    with pytest.raises(MSAInputError, match=r"results\.json"):
        EvaluationResult.load(tmp_path)


def test_no_file_is_refused(tmp_path):
    with pytest.raises(MSAInputError, match="no results"):
        EvaluationResult.load(tmp_path)
