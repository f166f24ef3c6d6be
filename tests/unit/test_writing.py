"""What cannot be written is named, with the reason, and a file is there whole or not at all."""

from __future__ import annotations

import errno
import json
import os
from pathlib import Path

import pytest
import torch
from safetensors import SafetensorError
from safetensors.torch import save_file

from medsam_adapter import writing
from medsam_adapter.errors import OutputError
from medsam_adapter.inference.session import Session
from medsam_adapter.training.run_folder import log_metrics, truncate_metrics
from medsam_adapter.writing import naming_write_errors, replacing, write_text


@pytest.mark.parametrize(
    ("error", "full", "found"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), True, "MB free"),
        (OSError(errno.EDQUOT, "Disk quota exceeded"), True, "MB free"),
        (SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)"), True, "MB free"),
        (OSError(errno.EROFS, "Read-only file system"), False, "Read-only file system"),
        (PermissionError(errno.EACCES, "Permission denied"), False, "Permission denied"),
        (SafetensorError("I/O error: Permission denied (os error 13)"), False, "Permission denied"),
        (SafetensorError("something new"), False, "something new"),
    ],
)
def test_the_reason_is_named(tmp_path, error, full, found):
    with pytest.raises(OutputError) as got, naming_write_errors(tmp_path / "sub" / "file"):
        raise error
    assert got.value.file == tmp_path / "sub" / "file" and found in got.value.found and got.value.hint
    assert ("the disk is full" in str(got.value)) == full
    with pytest.raises(ValueError, match="not ours"), naming_write_errors(tmp_path):
        raise ValueError("not ours")


def test_safetensors_own_error_is_understood(tmp_path):
    with pytest.raises(OutputError) as error, naming_write_errors(tmp_path):
        save_file({"a": torch.zeros(1)}, tmp_path / "none" / "file.safetensors")
    assert error.value.found == "No such file or directory"


def test_a_text_is_replaced_in_one_step(tmp_path, monkeypatch):
    file = tmp_path / "best.json"
    write_text(file, "first")
    write_text(file, "second")
    assert file.read_text() == "second"

    def half(self, text, **how):
        with self.open("w") as opened:
            opened.write(text[:3])
        raise OSError(errno.ENOSPC, "No space left on device", str(self))

    monkeypatch.setattr(Path, "write_text", half)
    with pytest.raises(OutputError, match="best.json: cannot be written: the disk is full"):
        write_text(file, "third")
    assert file.read_text() == "second" and [each.name for each in tmp_path.iterdir()] == ["best.json"]


def test_processes_of_one_number_write_one_file_without_meeting(tmp_path, monkeypatch):
    """In containers, and on machines that share a disk, the numbers of processes are often the same."""
    monkeypatch.setattr(os, "getpid", lambda: 1)
    file = tmp_path / "best.nii.gz"
    with replacing(file) as first:
        first.write_text("first")
        with replacing(file) as second:
            second.write_text("second")
        assert first.name.startswith(".") and first.name.endswith("best.nii.gz") and first != second
    assert file.read_text() == "first" and list(tmp_path.iterdir()) == [file]


def test_names_of_what_is_not_whole_yet_are_made_in_one_place():
    root = Path(writing.__file__).parent
    found = {path.relative_to(root).as_posix() for path in root.rglob("*.py") if "os.getpid" in path.read_text()}
    assert found == {"inference/batch_manifest.py"}  # which says who wrote a line


@pytest.mark.parametrize("error", [KeyboardInterrupt, ValueError])
def test_what_was_begun_is_removed_whatever_stops_it(tmp_path, error):
    with pytest.raises(error), replacing(tmp_path / "file") as temporary:
        temporary.write_text("half")
        raise error
    assert not list(tmp_path.iterdir())


def test_half_a_row_of_metrics_is_dropped_on_resume(tmp_path):
    for epoch in (1, 2, 3):
        log_metrics(tmp_path, {"epoch": epoch})
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"epoch": 1, "los')
    truncate_metrics(tmp_path, 2)
    rows = [json.loads(line)["epoch"] for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert rows == [1, 2]
    truncate_metrics(tmp_path / "nothing", 2)


def test_a_session_that_cannot_be_written_is_named(tmp_path):
    with pytest.raises(OutputError, match="s.json: cannot be written"):
        Session("ct.nii.gz", "0" * 64, (1, 2, 3), "sam-tiny").save(tmp_path / "none" / "s.json")
