"""Checkpoints that a run goes on from: `checkpoints/step-00000123/` in its folder.

`weights.safetensors` holds what is trained, `state.pt` the rest (optimiser, schedule, random states, the place in the
data; tensors and plain values, no pickled code), `manifest.json` size and SHA-256 of both. A checkpoint is written
under another name and renamed, so that none is there by halves; one that was damaged later is passed over for the one
before it.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from medsam_adapter.errors import CheckpointError, OutputError
from medsam_adapter.training.sharded import like, whole
from medsam_adapter.writing import naming_write_errors

FOLDER = "checkpoints"
WEIGHTS, STATE, MANIFEST = "weights.safetensors", "state.pt", "manifest.json"
FILES = (WEIGHTS, STATE)
FORMAT = 1
OLD_FILE = "checkpoint.pt"
"""What earlier versions wrote at the ends of epochs: read, not written any more."""


def trainable_state(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    """The weights that are trained, by name, whole and on the CPU; every process has to ask if they are sharded."""
    return {name: whole(p.detach()).cpu() for name, p in model.named_parameters() if p.requires_grad}


def checkpoints(folder: Path) -> list[Path]:
    """Folders of a run's checkpoints, the newest first; nobody has looked whether they are sound."""
    return sorted((folder / FOLDER).glob("step-*"), key=_step, reverse=True)


def has_checkpoint(folder: Path) -> bool:
    """Whether there is something to resume."""
    return bool(checkpoints(folder)) or (folder / OLD_FILE).is_file()


def refuse_earlier_run(folder: Path) -> None:
    """For a run that neither goes on with an earlier one nor was asked to replace it.

    Raises:
        OutputError: the folder holds weights or checkpoints.
    """
    weights = sorted(file.name for file in folder.glob("*.safetensors"))
    if weights or has_checkpoint(folder):
        raise OutputError(
            "an earlier run would be lost", file=folder, expected="a folder without weights and checkpoints",
            found=weights[0] if weights else f"{FOLDER}/",
            hint="--resume goes on with it, --overwrite removes it, another folder leaves it",
        )  # fmt: skip


def clear_checkpoints(folder: Path) -> None:
    """Remove all checkpoints of a run folder: a run that starts anew is not to be resumed from those of another."""
    with naming_write_errors(folder / FOLDER):
        if (folder / FOLDER).is_dir():
            shutil.rmtree(folder / FOLDER)
        (folder / OLD_FILE).unlink(missing_ok=True)


def save_checkpoint(folder: Path, state: dict[str, Any], step: int, keep: int = 2) -> Path:
    """Write a checkpoint into a run folder, and remove all but the newest.

    Args:
        state: `model`, {name: tensor}, and whatever else a run needs, of tensors and plain values.
        step: that are done; gives the name.
        keep: how many checkpoints are left, this one included.

    Raises:
        OutputError: a full disk, or a folder that cannot be written to; earlier checkpoints are as they were.
    """
    target = folder / FOLDER / f"step-{step:08d}"
    temporary = target.with_name(f".{target.name}.tmp")
    hint = "make room, then go on with --resume; the checkpoints before this one are as they were"
    with naming_write_errors(target, hint):
        try:
            shutil.rmtree(temporary, ignore_errors=True)
            temporary.mkdir(parents=True)
            _write(temporary, state, step)
            _put_in_place(temporary, target)
        except BaseException:
            shutil.rmtree(temporary, ignore_errors=True)
            raise
        _prune(folder, step, keep)
    return target


def load_checkpoint(folder: Path, say: Callable[[str], None] | None = None) -> dict[str, Any]:
    """Read the newest sound checkpoint of a run folder, as `save_checkpoint` was given it.

    Args:
        say: told of checkpoints that are damaged and passed over.

    Raises:
        CheckpointError: no checkpoint there, or none that can be read.
    """
    damaged = []
    for checkpoint in checkpoints(folder):
        try:
            state = _read(checkpoint)
        except _DamagedError as error:
            damaged.append(f"{checkpoint.name}: {error}")
            continue
        if damaged and say:
            say(f"damaged checkpoints are passed over ({'; '.join(damaged)}): going on from {checkpoint.name}")
        return state
    if damaged:
        raise CheckpointError(
            "no checkpoint can be read", file=folder / FOLDER, expected="one that is as msa wrote it",
            found="; ".join(damaged), hint="start anew with --overwrite, which removes them",
        )  # fmt: skip
    return _read_old(folder)


def restore_weights(model: torch.nn.Module, state: dict[str, torch.Tensor], folder: Path) -> None:
    """Put trained weights back.

    Raises:
        CheckpointError: if the recipe trains other weights than the checkpoint holds.
    """
    own = {name: p for name, p in model.named_parameters() if p.requires_grad}
    same = set(own) == set(state) and all(own[k].shape == v.shape for k, v in state.items())
    if not same:
        raise CheckpointError(
            "the checkpoint belongs to another model",
            file=folder / FOLDER,
            expected=f"{len(own)} trained tensors of this recipe",
            found=f"{len(state)} others",
            hint="resume with the recipe.yaml of the run folder",
        )
    with torch.no_grad():
        for name, parameter in own.items():
            parameter.copy_(like(parameter, state[name]))


class _DamagedError(Exception):
    """Why a checkpoint is not what was written."""


def _step(checkpoint: Path) -> int:
    digits = checkpoint.name.removeprefix("step-")
    return int(digits) if digits.isdigit() else -1


def _write(folder: Path, state: dict[str, Any], step: int) -> None:
    save_file({name: value.contiguous() for name, value in state["model"].items()}, folder / WEIGHTS)
    with (folder / STATE).open("wb") as file:  # torch hides the system's error where it opens the file itself
        torch.save({key: value for key, value in state.items() if key != "model"}, file)
    files = {file: {"bytes": (folder / file).stat().st_size, "sha256": _sha256(folder / file)} for file in FILES}
    (folder / MANIFEST).write_text(json.dumps({"format": FORMAT, "step": step, "files": files}, indent=1) + "\n")
    for name in (*FILES, MANIFEST, "."):
        _flush(folder / name)


def _put_in_place(temporary: Path, target: Path) -> None:
    """Rename; a folder cannot take the place of one that is not empty, so that of a repeated step goes aside first."""
    aside = target.with_name(f".{target.name}.old")
    shutil.rmtree(aside, ignore_errors=True)
    if target.exists():
        target.rename(aside)
    temporary.rename(target)
    _flush(target.parent)


def _flush(path: Path) -> None:
    """Have the system write a file, or the names in a folder, to the disk now."""
    number = os.open(path, os.O_RDONLY)
    try:
        os.fsync(number)
    finally:
        os.close(number)


def _prune(folder: Path, step: int, keep: int) -> None:
    """Leave the newest up to this step: later ones are of a run that went back to before them."""
    for checkpoint in checkpoints(folder):
        if _step(checkpoint) > step:
            shutil.rmtree(checkpoint)
    for checkpoint in checkpoints(folder)[keep:]:
        shutil.rmtree(checkpoint)
    for left in (folder / FOLDER).glob(".step-*"):  # of a run that was killed while it wrote
        shutil.rmtree(left)
    (folder / OLD_FILE).unlink(missing_ok=True)


def _read(checkpoint: Path) -> dict[str, Any]:
    try:
        files = json.loads((checkpoint / MANIFEST).read_text(encoding="utf-8"))["files"]
        for name in FILES:
            size, wanted = (checkpoint / name).stat().st_size, files[name]["bytes"]
            if size != wanted:
                raise _DamagedError(f"{name} has {size} of {wanted} bytes")
            if _sha256(checkpoint / name) != files[name]["sha256"]:
                raise _DamagedError(f"{name} does not have its SHA-256")
    except FileNotFoundError as error:
        raise _DamagedError(f"{Path(error.filename).name} is missing") from error
    except OSError as error:
        raise _DamagedError(str(error.strerror)) from error
    except (ValueError, KeyError, TypeError) as error:
        raise _DamagedError(f"{MANIFEST} cannot be read") from error
    try:
        state = torch.load(checkpoint / STATE, map_location="cpu", weights_only=True)
        return {"model": load_file(checkpoint / WEIGHTS), **state}
    except Exception as error:  # a dozen types; the files are as they were written, but not by msa
        raise _DamagedError(f"its files are not such as msa writes: {str(error).splitlines()[0]}") from error


def _read_old(folder: Path) -> dict[str, Any]:
    file = folder / OLD_FILE
    if not file.is_file():
        raise CheckpointError(
            "there is nothing to resume", file=folder, expected=f"{FOLDER}/step-...", found="none",
            hint="start without --resume",
        )  # fmt: skip
    try:
        return torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises a dozen types for a damaged file
        raise CheckpointError(
            "the checkpoint cannot be read", file=file, expected="a file written by msa train",
            found=str(error).splitlines()[0], hint="delete it and train again",
        ) from error  # fmt: skip


def _sha256(file: Path) -> str:
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()
