"""`msa pretrain promptable` goes on exactly, and never from another run's weights."""

from __future__ import annotations

import dataclasses
import json

import pytest
import torch
import yaml
from safetensors.torch import load_file

from medsam_adapter.cli.main import run
from medsam_adapter.errors import CheckpointError, OutputError, RecipeError
from medsam_adapter.pretraining import promptable
from medsam_adapter.pretraining.backbone import BackboneConfig
from medsam_adapter.pretraining.promptable import PromptableRecipe, pretrain_promptable
from medsam_adapter.training.checkpoint import checkpoints, load_checkpoint, save_checkpoint

SMALL = BackboneConfig(
    image_size=64, patch_size=8, hidden_size=32, num_layers=2, num_heads=2, window_size=4, decoder_size=32
)


def recipe(**changes) -> PromptableRecipe:
    values = dict(steps=4, batch_size=1, prompts_per_scene=1, max_corrections=1, warmup_steps=2, checkpoint_every=1)
    return PromptableRecipe(**{"backbone": SMALL, "mixed_precision": "no", "workers": 0, **values, **changes})


def test_a_run_in_stages_is_the_run_in_one_go(tmp_path):
    pretrain_promptable(recipe(), tmp_path / "whole")
    pretrain_promptable(recipe(), tmp_path / "staged", stop_after=1)
    with (tmp_path / "staged/log.jsonl").open("a") as log:
        log.write('{"step": 3, "loss": 0}\n{"step": 4, "lo')  # of a session that was killed before its checkpoint
    pretrain_promptable(recipe(), tmp_path / "staged", resume=True, stop_after=2)
    pretrain_promptable(recipe(), tmp_path / "staged", resume=True)
    whole, staged = (load_file(tmp_path / name / "model.safetensors") for name in ("whole", "staged"))
    assert whole.keys() == staged.keys() and all(torch.equal(whole[key], staged[key]) for key in whole)
    steps = [json.loads(line)["step"] for line in (tmp_path / "staged/log.jsonl").read_text().splitlines()]
    assert steps == [1, 3, 4]


def test_a_run_does_not_begin_in_the_folder_of_another(tmp_path):
    pretrain_promptable(recipe(steps=1), tmp_path)
    before = {file: file.stat().st_mtime_ns for file in tmp_path.rglob("*")}
    with pytest.raises(OutputError, match="an earlier run would be lost"):
        pretrain_promptable(recipe(steps=1, seed=1), tmp_path)
    assert {file: file.stat().st_mtime_ns for file in tmp_path.rglob("*")} == before


def test_a_run_that_starts_anew_cannot_be_resumed_from_the_last_one(tmp_path, monkeypatch):
    pretrain_promptable(recipe(steps=2), tmp_path)
    monkeypatch.setattr(promptable, "save_checkpoint", lambda *args: None)  # killed before its first checkpoint
    pretrain_promptable(recipe(steps=2, seed=1), tmp_path, stop_after=1, overwrite=True)
    assert not checkpoints(tmp_path)
    with pytest.raises(CheckpointError, match="nothing to resume"):
        pretrain_promptable(recipe(steps=2, seed=1), tmp_path, resume=True)


def test_another_recipe_is_refused_and_longer_is_not(tmp_path):
    pretrain_promptable(recipe(steps=2), tmp_path)
    before = (tmp_path / "recipe.json").read_text()
    with pytest.raises(CheckpointError, match="another recipe.*(?s:.)*seed: 7"):
        pretrain_promptable(recipe(steps=2, seed=7), tmp_path, resume=True)
    assert (tmp_path / "recipe.json").read_text() == before
    pretrain_promptable(recipe(steps=3), tmp_path, resume=True)
    assert checkpoints(tmp_path)[0].name.endswith("3")


def test_fewer_steps_than_are_done_are_refused(tmp_path):
    pretrain_promptable(recipe(steps=2), tmp_path)
    with pytest.raises(CheckpointError, match="more steps than the recipe asks for"):
        pretrain_promptable(recipe(steps=1), tmp_path, resume=True)


def test_the_checkpoint_of_a_training_is_not_resumed(tmp_path):
    pretrain_promptable(recipe(steps=1), tmp_path)
    state = load_checkpoint(tmp_path)
    del state["recipe"]
    state |= {"scheduler": {"last_epoch": 1}, "random": []}  # as `msa train` with method: full
    save_checkpoint(tmp_path, state, 1)
    with pytest.raises(CheckpointError, match="a checkpoint of `msa train`"):
        pretrain_promptable(recipe(steps=2), tmp_path, resume=True)


def test_a_run_that_overwrites_leaves_no_model_of_another_kind(tmp_path):
    for name in ("adapter_model.safetensors", "adapter_config.json", "network.json", "best.json", "split.json"):
        (tmp_path / name).write_text("{}")
    pretrain_promptable(recipe(steps=1), tmp_path, overwrite=True)
    assert not {"adapter_config.json", "network.json", "best.json", "split.json"} & {p.name for p in tmp_path.iterdir()}
    assert [file.name for file in tmp_path.glob("*.safetensors")] == ["model.safetensors"]


def test_cli_says_how_to_go_on_where_the_run_is_not_finished(tmp_path, capsys):
    file, folder = tmp_path / "recipe.yaml", tmp_path / "out"
    values = dataclasses.asdict(recipe(steps=2))
    file.write_text(yaml.safe_dump({name: list(v) if isinstance(v, tuple) else v for name, v in values.items()}))
    assert run(["pretrain", "promptable", str(file), "-o", str(folder), "--stop-after", "-5"]) == 2
    assert not folder.exists()
    capsys.readouterr()
    assert run(["pretrain", "promptable", str(file), "-o", str(folder), "--stop-after", "1"]) == 0
    out = capsys.readouterr().out
    assert "step 1 of 2" in out and f"next: msa pretrain promptable {file} -o {folder} --resume" in out
    assert run(["pretrain", "promptable", str(file), "-o", str(folder), "--resume"]) == 0
    out = capsys.readouterr().out
    assert f"backbone: {folder}" in out and f"next: msa train RECIPE --model.base {folder}" in out


@pytest.mark.parametrize("name", ["steps", "batch_size", "checkpoint_every"])
def test_numbers_that_cannot_be_trained_with(tmp_path, name):
    with pytest.raises(RecipeError, match=name):
        pretrain_promptable(recipe(**{name: 0}), tmp_path)
    assert not list(tmp_path.iterdir())


def test_no_warm_up_is_a_warm_up_of_no_steps(tmp_path):
    assert promptable.learning_rate(recipe(warmup_steps=0), 0) == recipe().learning_rate
