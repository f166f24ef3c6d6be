"""Networks without prompts go through the same loop: trained, resumed, scored, opened again, compared."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from medsam_adapter.baselines.predictor import NetworkPredictor
from medsam_adapter.cli.main import run
from medsam_adapter.cli.models import open_predictor
from medsam_adapter.comparison import runs
from medsam_adapter.comparison.contestants import CONTESTANTS, chosen
from medsam_adapter.comparison.runs import Outcome
from medsam_adapter.comparison.table import comparison_grid
from medsam_adapter.data.io import read_label
from medsam_adapter.data.layouts import open_dataset
from medsam_adapter.errors import CheckpointError, DataError, PromptError, RecipeError
from medsam_adapter.evaluation.evaluate import evaluate
from medsam_adapter.evaluation.metrics import MaskMetrics
from medsam_adapter.evaluation.published.protocols import paper_protocol
from medsam_adapter.evaluation.results import CaseResult, EvaluationResult
from medsam_adapter.training import loop
from medsam_adapter.training.checkpoint import load_checkpoint
from medsam_adapter.training.loop import train
from medsam_adapter.training.recipe import make_recipe
from miniatures import msd


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    root = tmp_path_factory.mktemp("set")
    msd.write(root)
    return root


def recipe(path, output, /, **sections):
    values = {
        "model": {"method": "resunet", "size": "tiny"},
        "data": {"path": str(path), "intensity": "percentile", "val_fraction": 0.25, "test_fraction": 0.25},
        "optim": {"epochs": 3},
        "run": {"output": str(output)},
    }
    for name, more in sections.items():
        values[name] = values.get(name, {}) | more
    return make_recipe(values)


@pytest.fixture(scope="module")
def trained(data, tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    train(recipe(data, folder), show_progress=False)
    return folder


def test_a_resumed_network_is_the_uninterrupted_one(data, trained, tmp_path, monkeypatch):
    original = loop._Run._checkpoint

    def stop(self, *args):
        original(self, *args)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(loop._Run, "_checkpoint", stop)
        with pytest.raises(KeyboardInterrupt):
            train(recipe(data, tmp_path), show_progress=False)
    train(recipe(data, tmp_path), resume=True, show_progress=False)
    one, other = (load_checkpoint(folder)["model"] for folder in (trained, tmp_path))
    assert one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def test_it_opens_again_and_answers_for_each_target(data, trained):
    predictor, dataset = open_predictor(str(trained)), open_dataset(data)
    assert isinstance(predictor, NetworkPredictor)
    sample = dataset.read(dataset.cases[0])
    masks = predictor.masks(sample.scan, list(dataset.targets))
    assert masks.shape == (len(dataset.targets), *sample.scan.shape_zyx) and masks.dtype == bool
    assert np.array_equal(predictor.masks(sample.scan, list(dataset.targets)[::-1]), masks[::-1])
    with pytest.raises(CheckpointError, match="not trained for 'river'"):
        predictor.masks(sample.scan, ["river"])
    result = evaluate(predictor, dataset, dataset.cases[:1], model_name="net")
    assert result.protocol == "none" and result.settings["method"] == "resunet"
    assert {row.target for row in result.cases} == set(dataset.targets)


def test_predict_writes_a_label_for_each_target(data, trained, tmp_path, capsys):
    dataset = open_dataset(data)
    sample, out = dataset.read(dataset.cases[0]), tmp_path / "mask.nii.gz"
    assert run(["predict", str(trained), str(dataset.cases[0].image), "-o", str(out)]) == 0
    masks = NetworkPredictor.from_pretrained(trained).masks(sample.scan, list(dataset.targets))
    written = read_label(out, like=sample.scan)
    for value, mask in enumerate(masks, 1):
        assert np.array_equal(written == value, mask & ~masks[value:].any(0))
    assert run(["predict", str(trained), str(dataset.cases[0].image), "-o", str(out), "--point", "1,1,1"]) == 2
    assert "takes no --point" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["network.json", "network.safetensors"])
def test_a_damaged_run_is_refused(trained, tmp_path, name):
    for file in trained.iterdir():
        if file.is_file() and file.name != name:
            (tmp_path / file.name).write_bytes(file.read_bytes())
    (tmp_path / name).write_text("{}")
    with pytest.raises(CheckpointError, match="no network"):
        NetworkPredictor.from_pretrained(tmp_path)


@pytest.mark.parametrize(
    ("sections", "error"),
    [
        ({"run": {"validate_prompts": "foo"}}, PromptError),
        ({"data": {"intensity": "foo"}}, DataError),
        ({"data": {"intensity": "window", "window_hu": [1.0]}}, DataError),
    ],
)
def test_what_a_network_could_not_be_saved_or_scored_with_is_refused_first(data, tmp_path, sections, error):
    with pytest.raises(error):
        train(recipe(data, tmp_path / "run", **sections), show_progress=False)
    assert not (tmp_path / "run").exists()


def test_values_that_do_not_count_for_a_network_are_named(data, tmp_path, capsys):
    changed = {"optim": {"epochs": 1, "learning_rate": 0.1, "batch_size": 7}, "loss": {"focal": 0.5}}
    train(recipe(data, tmp_path / "run", **changed))
    names = "data.intensity, loss.focal, optim.batch_size, optim.learning_rate"
    assert f"do not count for what resunet learns: {names}." in capsys.readouterr().err
    train(recipe(data, tmp_path / "other", data={"intensity": None}, optim={"epochs": 1}))
    assert "do not count" not in capsys.readouterr().err


@pytest.mark.parametrize("name", ["adapter_config.json", "model.safetensors"])
def test_a_folder_with_two_models_is_refused(trained, tmp_path, name):
    shutil.copytree(trained, tmp_path / "run")
    (tmp_path / "run" / name).write_text("{}")
    with pytest.raises(CheckpointError, match="two models"):
        open_predictor(str(tmp_path / "run"))


def test_a_run_of_minutes_ends_with_its_time_and_its_rate_at_zero(data, tmp_path):
    train(recipe(data, tmp_path, optim={"minutes": 0.02, "warmup_fraction": 0.0}), show_progress=False)
    rows = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    rates = [row["learning_rate"] for row in rows]
    assert rates == sorted(rates, reverse=True) and rates[-1] < 0.05 * 1e-3
    state = load_checkpoint(tmp_path)
    assert 1.2 <= state["trained_seconds"] < 4 and state["share_done"] >= 1
    before = (tmp_path / "metrics.jsonl").read_text()
    train(recipe(data, tmp_path, optim={"minutes": 0.02}), resume=True, show_progress=False)  # nothing is left to do
    assert (tmp_path / "metrics.jsonl").read_text() == before


# -- msa compare -------------------------------------------------------------------------------------------------------


def test_names_of_methods():
    assert chosen("all") == list(CONTESTANTS) and chosen("msa, SAM,msa") == ["msa", "sam"]
    with pytest.raises(RecipeError, match="no method 'nnunett'") as error:
        chosen("sam,nnunett")
    assert "nnunet?" in str(error.value)


def test_list_needs_no_recipe(capsys):
    assert run(["compare", "--list"]) == 0
    out = capsys.readouterr().out
    assert all(name in out for name in CONTESTANTS)
    assert run(["compare"]) == 2 and "no recipe" in capsys.readouterr().err


@pytest.fixture
def in_this_process(monkeypatch):
    """Runs `msa` here and not in processes of its own, and counts."""
    calls = []

    def here(words, log):
        calls.append(words)
        code = run(words)
        return ("" if code == 0 else "it broke"), 100.0

    monkeypatch.setattr(runs, "_run", here)
    return calls


def test_an_adapter_is_no_sam_to_compare_from(data, tmp_path, capsys):
    """The row of SAM as it is would be the adapter's."""
    (tmp_path / "recipe.yaml").write_text(recipe(data, tmp_path / "unused").to_yaml())
    (tmp_path / "adapter").mkdir()
    (tmp_path / "adapter/adapter_config.json").write_text("{}")
    words = [str(tmp_path / "recipe.yaml"), "--model.base", str(tmp_path / "adapter"), "-o", str(tmp_path / "out")]
    assert run(["compare", *words]) == 2
    assert "model.base is an adapter" in capsys.readouterr().err and not (tmp_path / "out").exists()


def test_compare_trains_scores_and_goes_on_after_a_failure(data, tmp_path, in_this_process, capsys):
    file = tmp_path / "recipe.yaml"
    file.write_text(recipe(data, tmp_path / "unused").to_yaml())
    output = tmp_path / "compare"
    command = ["compare", str(file), "--methods", "resunet,sam,lora", "--epochs", "1", "--size", "tiny"]
    command += ["-o", str(output), "--model.lora", "{r: -1}", "--model.image_size", "64", "--seed", "7"]
    assert run(command) == 0
    out = capsys.readouterr().out
    assert "LoRA failed: it broke" in out and "ResUNet" in out and "BEAL" in out
    table = (output / "table.md").read_text()
    assert table.index("SAM as it is") < table.index("prompted") < table.index("without prompts")
    assert EvaluationResult.load(output / "sam" / "box").settings["image_size"] == 64  # as the others see them
    first = len(in_this_process)
    assert sum(words[0] == "train" for words in in_this_process) == 2
    scored = [words for words in in_this_process if words[0] == "evaluate"]
    assert len({tuple(words[words.index("--data") :][:10]) for words in scored}) == 1  # on one part of one split
    assert len(scored) >= 2 and all(words[words.index("--seed") + 1] == "7" for words in scored)
    assert (output / "table.csv").is_file() and (output / "table.tex").is_file()
    assert run(command) == 0
    assert [words[0] for words in in_this_process[first:]] == ["train"]  # only the failed one is tried again
    assert json.loads((output / "resunet" / "outcome.json").read_text())["trained_parameters"] > 1000


@pytest.fixture
def compare(tmp_path, in_this_process, capsys):
    """compare(data, *words, **sections of the recipe) -> (the table's title, what it printed while at it)."""

    def call(data, /, *words, **sections):
        file = tmp_path / "recipe.yaml"
        file.write_text(recipe(data, tmp_path / "unused", **sections).to_yaml())
        command = ["compare", str(file), "--size", "tiny", "-o", str(tmp_path / "compare"), "--json", *words]
        assert run([*command, "--methods", "resunet"]) == 0
        printed = capsys.readouterr()
        return json.loads(printed.out[printed.out.index('{\n "title"') :])["title"], printed.err

    return call


def _more_cases(root):
    for folder in ("imagesTr", "labelsTr"):
        for number in range(msd.NUM_CASES):
            file = root / folder / f"liver_{number}.nii.gz"
            file.with_name(f"liver_{number + 10}.nii.gz").write_bytes(file.read_bytes())
    content = json.loads((root / "dataset.json").read_text())
    names = [file.name for file in sorted((root / "labelsTr").iterdir())]
    content["training"] = [{"image": f"./imagesTr/{name}", "label": f"./labelsTr/{name}"} for name in names]
    (root / "dataset.json").write_text(json.dumps(content | {"numTraining": len(names)}))


def _another_mask(root):
    first, second = (root / f"labelsTr/liver_{number}.nii.gz" for number in (0, 1))
    first.write_bytes(second.read_bytes())


@pytest.mark.parametrize(("change", "cases"), [(_more_cases, "2 test cases"), (_another_mask, "1 test case")])
def test_scores_of_the_data_of_before_are_not_shown_for_those_of_now(tmp_path, compare, change, cases):
    root, words = tmp_path / "set", ("--epochs", "1")
    msd.write(root)
    title, _ = compare(root, *words)
    assert ", 1 test case, " in title
    assert "done before" in compare(root, *words)[1]
    change(root)
    title, said = compare(root, *words)
    assert "done before" not in said and f", {cases}, " in title
    scored = EvaluationResult.load(tmp_path / "compare" / "resunet" / "1-point")
    assert len({case.case_id for case in scored.cases}) == int(cases[0])


def test_a_comparison_is_known_again_however_its_folders_are_spelled_and_after_a_move(
    tmp_path, in_this_process, monkeypatch
):
    msd.write(tmp_path / "set")
    file = tmp_path / "recipe.yaml"
    file.write_text(recipe("set", "unused").to_yaml())
    shutil.copytree(_base(), tmp_path / "sam")

    def call(*places):
        output, root, base = map(str, places)
        words = ["--methods", "resunet,sam", "--epochs", "1", "--size", "tiny", "-o", output]
        assert run(["compare", str(file), *words, "--data.path", root, "--model.base", base, "--max-cases", "1"]) == 0
        return Path(output, "table.md").read_text()

    monkeypatch.chdir(tmp_path)
    table = call("cmp", "set", "sam")
    done = len(in_this_process)
    call(tmp_path / "cmp", tmp_path / "set", tmp_path / "sam")
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    call("../cmp", "../elsewhere/../set", "../sam")
    (tmp_path / "cmp").rename(tmp_path / "moved")
    assert call("../moved", "../set", "../sam") == table and len(in_this_process) == done


def _base():
    from medsam_adapter.backbones import EMBEDDED

    return EMBEDDED["sam-tiny"]


def test_outcomes_of_before_are_read(tmp_path):
    (tmp_path / "outcome.json").write_text(json.dumps({"key": "k", "results": {"box": "cmp/sam/box"}}))
    assert Outcome.load(tmp_path).results == {"box": str(tmp_path / "box")}
    Outcome.load(tmp_path).save(tmp_path)
    assert json.loads((tmp_path / "outcome.json").read_text())["results"] == {"box": "box"}


def test_the_title_says_how_many_cases_were_scored_and_how_long_each_was_trained(data, compare):
    halved = {"data": {"test_fraction": 0.5}, "optim": {"epochs": 20, "minutes": 0.02}}
    assert compare(data, "--max-cases", "1", **halved)[0] == "Liver, 1 test case, 0.02 min each"
    assert compare(data, "--epochs", "1", **halved)[0] == "Liver, 2 test cases, 1 epoch each"


def test_the_time_of_all_attempts_counts_and_a_stop_is_on_record(tmp_path, monkeypatch):
    file, run_folder = tmp_path / "recipe.yaml", tmp_path / "resunet" / "run"
    file.write_text("name: x")
    words_of = []

    def stopped(words, log):
        words_of.append(words)
        (run_folder / "checkpoints" / "step-00000001").mkdir(parents=True, exist_ok=True)
        raise KeyboardInterrupt

    monkeypatch.setattr(runs, "_run", stopped)
    for _ in range(2):
        with pytest.raises(KeyboardInterrupt):
            runs.run_method("resunet", file, {}, [], "sam-tiny", tmp_path, lambda said: None)
        outcome = Outcome.load(tmp_path / "resunet")
        assert outcome.failed == "interrupted"
        Outcome(outcome.key, "interrupted", 5.0, 300.0, 0, {}).save(tmp_path / "resunet")
    assert (
        "--resume" not in words_of[0] and "--resume" in words_of[1] and outcome.minutes >= 5 and outcome.peak_mb == 300
    )


def test_every_row_of_a_table_stands_in_its_section():
    outcomes = {name: Outcome("", "no reason", results={}) for name in ("resunet", "sam", "lora", "nnunet", "msa")}
    grid = comparison_grid(outcomes, "title")
    sections = [row.section for row in grid.rows]
    assert sections == sorted(sections, key=list(dict.fromkeys(sections)).index) and len(set(sections)) == 3
    assert [row.names[0].text for row in grid.rows if row.section == "prompted"] == ["LoRA", "MSA"]


@pytest.mark.parametrize(
    ("protocol", "method", "figures"),
    [("brain-tumor", "BEAL", ("-", "0.788", "0.717", "18.53")), ("btcv", "MSA 1 point", ("0.978", "0.883", "-", "-"))],
)
def test_the_papers_rows_stand_in_a_section_of_their_own(tmp_path, protocol, method, figures):
    """The first figure is that of a target of our own results, the others are means."""
    target = {"brain-tumor": "enhancing tumor", "btcv": "spleen"}[protocol]
    EvaluationResult("m", "p", [CaseResult("c", target, MaskMetrics(0.5, 0.4, 3.0, 1, 1))]).save(tmp_path)
    outcomes = {"lora": Outcome("", results={"1-point": str(tmp_path)})}
    grid = comparison_grid(outcomes, "title", paper_protocol(protocol))
    rows = [row for row in grid.rows if row.section == "published (Wu et al.)"]
    assert len(rows) >= 12 and grid.rows[0].section == "prompted" and len(grid.rows[0].cells) == len(rows[0].cells)
    found = next(row for row in rows if row.names[0].text == method)
    assert tuple(cell.text for cell in found.cells[:4]) == figures


def test_a_killed_process_is_named_and_errors_are_quoted(tmp_path):
    failed, peak_mb = runs._run(["train", str(tmp_path / "none.yaml")], tmp_path / "log")
    assert "there is no such recipe" in failed and peak_mb > 1
    (tmp_path / "log").write_text("")
    assert runs._reason(-9, tmp_path / "log").startswith("killed by signal 9")
    assert "exit code 3" in runs._reason(3, tmp_path / "log")
