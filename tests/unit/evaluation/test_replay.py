"""Prompts from a file: read as they were written, and refused where they do not fit."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from medsam_adapter.data.layouts import Dataset
from medsam_adapter.data.sample import Case
from medsam_adapter.errors import DataError, PromptError
from medsam_adapter.evaluation.metrics import MaskMetrics
from medsam_adapter.evaluation.replay import Replay
from medsam_adapter.evaluation.results import CaseResult, EvaluationResult
from medsam_adapter.prompts.types import ObjectPrompt

CLICK = ObjectPrompt([(1.5, 2.0, 3.0)], [1])
BOX = ObjectPrompt(boxes=[(0.1, 2.0, 1.0, 5.0, 6.0, 1.0)], text="the spleen")


@pytest.fixture
def folder(tmp_path):
    metrics = MaskMetrics(0.5, 0.3, 1.0, 4, 4)
    cases = [
        CaseResult("a", "liver", metrics, CLICK.to_json()),
        CaseResult("a", "spleen", MaskMetrics(np.nan, np.nan, np.nan, 0, 0, "both_empty")),
        CaseResult("b", "spleen", metrics, BOX.to_json()),
        CaseResult("b", "liver + spleen", metrics, {"text": "both"}),
        CaseResult("b", "absent 2", metrics, {"text": "the nose"}),
    ]
    settings = {"protocol": "3-points", "per": "slice", "seed": 5, "dataset": "set"}
    return EvaluationResult("m", "3-points per slice", cases, settings).save(tmp_path / "results")


def edited(folder, change):
    content = json.loads((folder / "prompts.json").read_text())
    change(content)
    (folder / "prompts.json").write_text(json.dumps(content))
    return folder


def test_prompts_come_back_as_they_were(folder):
    replay = Replay.load(folder / "prompts.json")
    assert replay == Replay.load(folder)
    assert (replay.protocol, replay.per, replay.seed) == ("3-points", "slice", 5)
    assert replay.cases["a"] == {"liver": CLICK, "spleen": None}
    assert replay.cases["b"]["spleen"] == BOX


def test_questions_of_targets_unions_and_absent_things(folder):
    replay, labels = Replay.load(folder), np.array([[[0, 1]]])
    targets = {"liver": (1,), "spleen": (2, 4)}
    first = replay.questions("a", labels, targets)
    assert [(q.target, q.values, q.prompt) for q in first] == [("liver", (1,), CLICK), ("spleen", (2, 4), None)]
    assert [q.values for q in replay.questions("b", labels, targets)] == [(2, 4), (1, 2, 4), ()]


def test_a_target_that_is_not_there_is_refused(folder):
    with pytest.raises(PromptError, match="'spleen' of case 'a'"):
        Replay.load(folder).questions("a", np.zeros((1, 1, 1), int), {"liver": (1,)})


def test_a_target_that_should_not_be_there_is_refused(folder):
    with pytest.raises(PromptError, match="does not show 'spleen'"):
        Replay.load(folder).questions("a", np.full((1, 1, 2), 2), {"liver": (1,), "spleen": (2,)})


def test_cases_are_those_of_the_file(folder):
    cases = [Case(name, Path(name), Path(name)) for name in ("b", "c", "a")]
    dataset = Dataset("set", Path("root"), cases)
    assert [case.case_id for case in Replay.load(folder).cases_of(dataset)] == ["a", "b"]
    for others in (cases[1:], [Case("b", Path("b")), *cases[1:]]):  # not there; without a reference
        with pytest.raises(DataError, match=r"found: b"):
            Replay.load(folder).cases_of(Dataset("set", Path("root"), others))


BROKEN = {
    "no cases": lambda content: content.pop("cases"),
    "no seed": lambda content: content.pop("seed"),
    "another protocol": lambda content: content.update(protocol="circle"),
    "two numbers": lambda content: content["cases"]["a"]["liver"].update(points=[[1, 2]]),
    "a word": lambda content: content["cases"]["a"]["liver"].update(points=[["x", 2, 3]]),
    "more labels than points": lambda content: content["cases"]["a"]["liver"].update(labels=[1, 1]),
    "an empty prompt": lambda content: content["cases"]["a"].update(liver={"points": [], "labels": []}),
    "a list of cases": lambda content: content.update(cases=["a"]),
}


@pytest.mark.parametrize("name", BROKEN)
def test_other_files_are_refused(folder, name):
    with pytest.raises(DataError, match=r"prompts\.json: is no file of prompts"):
        Replay.load(edited(folder, BROKEN[name]))


def test_no_file_is_refused(tmp_path):
    with pytest.raises(DataError, match="no prompts here"):
        Replay.load(tmp_path)
