"""What `msa evaluate` makes of results that are there: which are compared, what is said of others, which files stay."""

from __future__ import annotations

import json

import pytest

from medsam_adapter.cli.evaluate_folder import remove_other_form, result_folder, write_result
from medsam_adapter.cli.evaluate_outputs import report
from medsam_adapter.cli.main import run
from medsam_adapter.evaluation.metrics import MaskMetrics
from medsam_adapter.evaluation.results import CaseResult, EvaluationResult

NETWORK = "none"  # what the prompts of a network without prompts are called in tables


def result(model: str, asked: str = "1-point", shown: str | None = None, dice: float = 0.5, **settings):
    """Two cases of one target; `shown`: in place of the prompts that were drawn."""
    cases = [
        CaseResult(case, "liver", MaskMetrics(dice, 0.3, 2.0, 9, 9), {"points": [[1, 1, 1]], "asked": asked})
        for case in "ab"
    ]
    settings = {"protocol": asked, "per": "volume", "seed": 0, **settings}
    return EvaluationResult(model, shown or f"{asked} per volume", cases, settings)


def reported(results, folder, capsys) -> dict:
    report(results, folder, 2, None, ["a note"], as_json=True)
    return json.loads(capsys.readouterr().out)


def test_a_network_is_compared_with_a_sam(tmp_path, capsys):
    found = reported([result("net", shown=NETWORK), result("sam", dice=0.75)], tmp_path, capsys)
    dice = found["comparisons"][0]
    assert (dice["reference"], dice["other"], dice["protocol"]) == ("net", "sam", "1-point per volume")
    assert (
        dice["difference"] == 0.25 and "sam (other) against net (reference)" in (tmp_path / "comparison.md").read_text()
    )


def test_networks_are_paired_by_the_prompts_that_they_did_not_hear(tmp_path, capsys):
    results = [result(model, asked, NETWORK) for model in ("one", "two") for asked in ("1-point", "box")]
    found = reported(results, tmp_path, capsys)
    pairs = [(each["other"], each["protocol"]) for each in found["comparisons"] if each["metric"] == "dice"]
    assert pairs == [("two", "1-point per volume"), ("two", "box per volume")]


def test_results_that_cannot_be_compared_are_reported_all_the_same(tmp_path, capsys):
    found = reported([result("one"), result("two", seed=3)], tmp_path, capsys)
    assert [row["model"] for row in found["rows"]] == ["one", "two"] and "comparisons" not in found
    said = "The results of one and two cannot be compared: they were made with another seed."
    assert found["notes"] == ["a note", said] and said in (tmp_path / "table.md").read_text()


@pytest.mark.parametrize("form", ["text", "json"])
@pytest.mark.parametrize(
    ("second", "code", "said"),
    [
        (result("sam", shown=NETWORK), 0, ""),
        (result("sam", "box"), 2, "another kind of prompts"),
        (None, 2, "are the same results"),
    ],
)
def test_stored_results_are_compared_or_it_is_said_why_not(tmp_path, capsys, second, code, said, form):
    folders = [str(result("sam").save(tmp_path / "first")), str(tmp_path / "first")]
    if second:
        folders[1] = str(second.save(tmp_path / "second"))
    assert run(["evaluate", "--compare", *folders, *(["--json"] if form == "json" else [])]) == code
    out, err = capsys.readouterr()
    assert said in err and "unexpected" not in err and bool(out) == (code == 0)
    if form == "json" and code == 0:
        assert json.loads(out)["comparisons"][0]["difference"] == 0


def test_files_of_an_earlier_evaluation_do_not_stay_beside_new_results(tmp_path, capsys):
    reported([result("one"), result("two")], tmp_path, capsys)
    (tmp_path / "best_median_worst.png").write_bytes(b"of before")
    (tmp_path / "own.txt").write_text("of the user")
    assert (tmp_path / "comparison.tex").exists()
    write_result(result("one"), tmp_path, [])
    reported([result("one")], tmp_path, capsys)
    assert {path.name for path in tmp_path.iterdir()} == {
        "own.txt", "results.json", "results.csv", "prompts.json", "model_index.yaml", "table.md", "table.csv",
        "table.tex",
    }  # fmt: skip


def _files(folder) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


def _write(output, *models) -> None:
    for model in models:
        write_result(result(model), result_folder(output, model, "1-point", len(models) == 1), [])
    remove_other_form(output, len(models) == 1)


@pytest.mark.parametrize(("before", "now"), [(["one"], ["one", "two"]), (["one", "two"], ["one"])])
def test_an_evaluation_of_the_other_form_does_not_stay_beside_a_new_one(tmp_path, before, now):
    _write(tmp_path / "new", *now)
    _write(tmp_path / "both", *before)
    _write(tmp_path / "both", *now)
    assert _files(tmp_path / "both") == _files(tmp_path / "new")
    assert len(list((tmp_path / "both").iterdir())) == len(list((tmp_path / "new").iterdir()))


def test_what_another_command_has_written_stays_beside_a_new_evaluation(tmp_path):
    result("one").save(tmp_path / "api" / "one_1-point")  # from Python
    _write(tmp_path / "by_name", "one")  # into a folder that the user has named
    _write(tmp_path / "one_1-point", "one")
    (tmp_path / "one_1-point" / "table.md").write_text("its own table")
    (tmp_path / "other_1-point").mkdir()
    (tmp_path / "other_1-point" / "results.json").write_text("[]")
    before = _files(tmp_path)
    _write(tmp_path, "one")
    assert before <= _files(tmp_path)
    _write(tmp_path / "api", "one")
    assert (tmp_path / "api" / "one_1-point" / "results.json").exists()
    result("one").save(tmp_path / "mine")
    _write(tmp_path / "mine", "one", "two")
    assert (tmp_path / "mine" / "results.json").exists()
