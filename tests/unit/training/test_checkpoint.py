"""Checkpoints: whole or not there, the newest sound one is read, and what fails is named."""

from __future__ import annotations

import errno
import json

import pytest
import torch

from medsam_adapter.errors import CheckpointError, OutputError, RecipeError
from medsam_adapter.training import checkpoint as module
from medsam_adapter.training.checkpoint import (
    checkpoints,
    clear_checkpoints,
    has_checkpoint,
    load_checkpoint,
    restore_weights,
    save_checkpoint,
    trainable_state,
)
from medsam_adapter.training.recipe import make_recipe


def state(number: float) -> dict:
    weights = {"a.weight": torch.full((3, 4), number), "b": torch.full((2,), number).bfloat16()}
    return {"model": weights, "optimizer": {"state": {0: {"step": torch.tensor(number)}}}, "epochs_done": int(number)}


def names(folder) -> list[str]:
    return [path.name for path in checkpoints(folder)]


@pytest.mark.parametrize("name", ["checkpoint_every", "checkpoint_every_steps", "keep_checkpoints"])
def test_how_often_and_how_many_is_at_least_one(name):
    assert make_recipe({"run": {name: 1}})
    with pytest.raises(RecipeError, match=f"run.{name} is out of range"):
        make_recipe({"run": {name: 0}})


def test_what_was_saved_is_read(tmp_path):
    assert not has_checkpoint(tmp_path)
    path = save_checkpoint(tmp_path, state(2), step=7)
    assert path == tmp_path / "checkpoints" / "step-00000007" and has_checkpoint(tmp_path)
    assert {file.name for file in path.iterdir()} == {"weights.safetensors", "state.pt", "manifest.json"}
    got = load_checkpoint(tmp_path, pytest.fail)
    assert got.keys() == state(2).keys() and got["epochs_done"] == 2
    for name, value in state(2)["model"].items():
        assert torch.equal(got["model"][name], value) and got["model"][name].dtype == value.dtype
    assert torch.equal(got["optimizer"]["state"][0]["step"], torch.tensor(2.0))


def test_the_last_ones_are_kept(tmp_path):
    for number in range(1, 12):
        save_checkpoint(tmp_path, state(number), number, keep=3)
    assert names(tmp_path) == ["step-00000011", "step-00000010", "step-00000009"]
    assert load_checkpoint(tmp_path)["epochs_done"] == 11


def test_a_run_that_went_back_has_no_later_checkpoints(tmp_path):
    for number in (4, 8):
        save_checkpoint(tmp_path, state(number), number)
    save_checkpoint(tmp_path, state(5), 5)
    assert names(tmp_path) == ["step-00000005", "step-00000004"]


def test_the_same_step_is_replaced_and_leftovers_vanish(tmp_path):
    save_checkpoint(tmp_path, state(1), 5)
    for name in (".step-00000006.tmp", ".step-00000005.old"):
        (tmp_path / "checkpoints" / name).mkdir()
        (tmp_path / "checkpoints" / name / "state.pt").write_text("half")
    assert load_checkpoint(tmp_path, pytest.fail)["epochs_done"] == 1  # what is half written is no checkpoint
    save_checkpoint(tmp_path, state(2), 5)
    assert load_checkpoint(tmp_path)["epochs_done"] == 2
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["step-00000005"]


def cut(file):
    file.write_bytes(file.read_bytes()[:-1])


def flip(file):
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)


DAMAGE = {
    "short weights": ("weights.safetensors", cut, "weights.safetensors has"),
    "short state": ("state.pt", cut, "state.pt has"),
    "flipped weights": ("weights.safetensors", flip, "weights.safetensors does not have its SHA-256"),
    "flipped state": ("state.pt", flip, "state.pt does not have its SHA-256"),
    "no weights": ("weights.safetensors", lambda file: file.unlink(), "weights.safetensors is missing"),
    "no manifest": ("manifest.json", lambda file: file.unlink(), "manifest.json is missing"),
    "half a manifest": ("manifest.json", lambda file: file.write_text('{"files": {'), "manifest.json cannot be read"),
    "another manifest": ("manifest.json", lambda file: file.write_text("[]"), "manifest.json cannot be read"),
    "empty state": ("state.pt", lambda file: file.write_bytes(b""), "state.pt has 0 of"),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_one_is_passed_over_aloud(tmp_path, damage):
    name, spoil, reason = DAMAGE[damage]
    for number in (4, 8):
        save_checkpoint(tmp_path, state(number), number)
    spoil(tmp_path / "checkpoints" / "step-00000008" / name)
    said = []
    assert load_checkpoint(tmp_path, said.append)["epochs_done"] == 4
    assert len(said) == 1 and reason in said[0]
    assert "step-00000008" in said[0] and "going on from step-00000004" in said[0]
    spoil(tmp_path / "checkpoints" / "step-00000004" / name)
    with pytest.raises(CheckpointError, match="no checkpoint can be read") as error:
        load_checkpoint(tmp_path)
    assert error.value.found.count(reason) == 2 and "--overwrite" in error.value.hint


def test_nothing_there(tmp_path):
    with pytest.raises(CheckpointError, match="nothing to resume"):
        load_checkpoint(tmp_path)
    (tmp_path / "checkpoint.pt").write_text("not a file of torch")
    assert has_checkpoint(tmp_path)
    with pytest.raises(CheckpointError, match="cannot be read"):
        load_checkpoint(tmp_path)


def test_the_file_of_an_earlier_version_is_read_and_then_replaced(tmp_path):
    torch.save(state(3), tmp_path / "checkpoint.pt")
    got = load_checkpoint(tmp_path)
    assert torch.equal(got["model"]["a.weight"], state(3)["model"]["a.weight"]) and got["epochs_done"] == 3
    save_checkpoint(tmp_path, state(4), 4)
    assert not (tmp_path / "checkpoint.pt").exists() and load_checkpoint(tmp_path)["epochs_done"] == 4


def test_all_are_removed(tmp_path):
    clear_checkpoints(tmp_path)
    save_checkpoint(tmp_path, state(1), 1)
    torch.save(state(1), tmp_path / "checkpoint.pt")
    clear_checkpoints(tmp_path)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("place", ["save_file", "_sha256", "_put_in_place"])
@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EROFS])
def test_what_cannot_be_written_is_named_and_leaves_the_earlier(tmp_path, monkeypatch, place, number):
    save_checkpoint(tmp_path, state(4), 4)

    def fails(*_, **__):
        raise OSError(number, "the reason")

    with monkeypatch.context() as patch:
        patch.setattr(module, place, fails)
        with pytest.raises(OutputError, match="cannot be written") as error:
            save_checkpoint(tmp_path, state(8), 8)
    assert "step-00000008" in str(error.value) and error.value.exit_code == 2
    assert ("the disk is full" in str(error.value)) == (number == errno.ENOSPC)
    assert ("MB free" in error.value.found) == (number == errno.ENOSPC)
    assert ("--resume" in error.value.hint) == (number == errno.ENOSPC)
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["step-00000004"]
    assert load_checkpoint(tmp_path, pytest.fail)["epochs_done"] == 4


def test_the_folder_of_checkpoints_may_be_a_file(tmp_path):
    (tmp_path / "checkpoints").write_text("")
    with pytest.raises(OutputError, match="cannot be written"):
        save_checkpoint(tmp_path, state(8), 8)


def test_no_pickled_code_is_run(tmp_path):
    """A state that was made by someone else, with a manifest that fits it."""
    path = save_checkpoint(tmp_path, state(1), 1)
    torch.save({"model": print}, path / "state.pt")
    manifest = json.loads((path / "manifest.json").read_text())
    size, digest = (path / "state.pt").stat().st_size, module._sha256(path / "state.pt")
    manifest["files"]["state.pt"] = {"bytes": size, "sha256": digest}
    (path / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(CheckpointError, match="no checkpoint can be read"):
        load_checkpoint(tmp_path)


def test_weights_go_back_into_a_model_that_has_them(tmp_path):
    model = torch.nn.Sequential(torch.nn.Linear(2, 3), torch.nn.Linear(3, 2))
    model[0].requires_grad_(False)
    kept = trainable_state(model)
    assert set(kept) == {"1.weight", "1.bias"}
    before = {name: value.clone() for name, value in kept.items()}
    torch.nn.init.zeros_(model[1].weight)
    restore_weights(model, before, tmp_path)
    assert torch.equal(model[1].weight, before["1.weight"])
    model[0].requires_grad_(True)
    with pytest.raises(CheckpointError, match="another model"):
        restore_weights(model, before, tmp_path)
    with pytest.raises(CheckpointError, match="another model"):
        restore_weights(torch.nn.Sequential(torch.nn.Identity(), torch.nn.Linear(4, 2)), before, tmp_path)
