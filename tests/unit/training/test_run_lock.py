"""One training at a time in a run folder, however the last one ended, and also where files cannot be locked."""

from __future__ import annotations

import errno
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path

import pytest
from accelerate.state import AcceleratorState

from medsam_adapter import file_locks
from medsam_adapter.errors import OutputError
from medsam_adapter.pretraining.promptable import PromptableRecipe, pretrain_promptable
from medsam_adapter.pretraining.ssl import pretrain_ssl
from medsam_adapter.pretraining.ssl_recipe import SslRecipe
from medsam_adapter.training import run_lock
from medsam_adapter.training.loop import train
from medsam_adapter.training.recipe import make_recipe
from medsam_adapter.training.run_lock import FILE, RunLock

HOLD = """
import fcntl, sys
file = open(sys.argv[1], "ab")
fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, 0)
print("held", flush=True)
sys.stdin.read()
"""


@contextmanager
def held_by_another(folder: Path):
    """A training of another process, which is killed at the end."""
    folder.mkdir(exist_ok=True)
    command, pipes = [sys.executable, "-c", HOLD, str(folder / FILE)], dict(stdin=subprocess.PIPE, text=True)
    with subprocess.Popen(command, stdout=subprocess.PIPE, **pipes) as other:
        assert other.stdout.readline() == "held\n"
        try:
            yield
        finally:
            other.kill()


def train_in(folder: Path, is_kept: bool) -> None:
    recipe = {"model": {"base": "sam-tiny"}, "data": {"path": "nowhere"}, "run": {"output": str(folder)}}
    train(make_recipe(recipe), resume=is_kept, overwrite=not is_kept)


def pretrain_in(folder: Path, is_kept: bool) -> None:
    pretrain_promptable(PromptableRecipe(steps=1), folder, resume=is_kept, overwrite=not is_kept)


def pretrain_ssl_in(folder: Path, is_kept: bool) -> None:
    recipe = SslRecipe(base="sam-tiny", sources=[{"kind": "folder", "path": "nowhere"}])
    pretrain_ssl(recipe, folder, resume=is_kept, overwrite=not is_kept)


@pytest.mark.parametrize("start", [train_in, pretrain_in, pretrain_ssl_in])
@pytest.mark.parametrize("is_kept", [True, False])
def test_a_second_training_does_not_begin(tmp_path, start, is_kept):
    AcceleratorState._reset_state(reset_partial_state=True)
    with held_by_another(tmp_path / "run"), pytest.raises(OutputError, match="another training writes here"):
        start(tmp_path / "run", is_kept)
    assert [file.name for file in (tmp_path / "run").iterdir()] == [FILE]
    AcceleratorState._reset_state(reset_partial_state=True)


@pytest.mark.parametrize("replaces", [True, False])
def test_a_killed_training_keeps_nobody_out_and_nothing_is_left(tmp_path, replaces):
    with held_by_another(tmp_path):
        pass
    with RunLock(tmp_path, replaces):  # and does not begin
        pass
    assert (tmp_path / FILE).exists()
    for _ in range(2):
        with RunLock(tmp_path, replaces) as lock:
            lock.take()
            assert (tmp_path / FILE).exists()
        assert not list(tmp_path.iterdir())


def test_a_new_folder_is_made_when_the_run_begins_and_not_before(tmp_path):
    folder = tmp_path / "deep" / "run"
    with RunLock(folder, False) as lock:
        assert not folder.parent.exists()
        lock.take()
        assert folder.is_dir()
        with pytest.raises(OutputError, match="another training writes here"):  # of this process
            RunLock(folder, True).__enter__()
    assert not list(folder.iterdir())


def test_a_training_that_came_and_went_meanwhile_is_not_lost(tmp_path):
    folder = tmp_path / "run"
    with RunLock(folder, False) as lock:
        folder.mkdir()
        (folder / "adapter_model.safetensors").write_bytes(b"x")
        with pytest.raises(OutputError, match="an earlier run would be lost"):
            lock.take()
    with RunLock(folder, True) as lock:
        lock.take()


def test_a_lock_whose_owner_left_as_it_was_taken_is_taken_anew(tmp_path, monkeypatch):
    def leaves(file, byte=0):
        monkeypatch.undo()
        (tmp_path / FILE).unlink()
        return file_locks.try_lock(file, byte)

    monkeypatch.setattr(run_lock, "try_lock", leaves)
    with RunLock(tmp_path, True):
        assert (tmp_path / FILE).exists()
        with pytest.raises(OutputError):
            RunLock(tmp_path, True).__enter__()


def test_a_file_system_without_locks_keeps_nobody_out_and_says_so(tmp_path, monkeypatch, capsys):
    def refuse(*_):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(file_locks.fcntl, "lockf", refuse)
    with RunLock(tmp_path, True), RunLock(tmp_path, True):
        pass
    assert "cannot be locked (No locks available)" in capsys.readouterr().err
    monkeypatch.setattr(file_locks, "fcntl", None)
    with RunLock(tmp_path, True):
        pass
    assert "no file locks" in capsys.readouterr().err
