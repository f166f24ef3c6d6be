"""Checkpoints that a run goes on from: trained weights, optimiser, scheduler and the place in the data, in one file.

Written under another name and renamed, so that there is never half a checkpoint.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from medsam_adapter.errors import CheckpointError

NAME = "checkpoint.pt"


def trainable_state(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    """The weights that are trained, by name."""
    return {name: p.detach().cpu() for name, p in model.named_parameters() if p.requires_grad}


def save_checkpoint(folder: Path, state: dict[str, Any]) -> None:
    """Write `checkpoint.pt` into a run folder."""
    temporary = folder / f"{NAME}.tmp"
    torch.save(state, temporary)
    temporary.replace(folder / NAME)


def load_checkpoint(folder: Path) -> dict[str, Any]:
    """Read `checkpoint.pt` of a run folder.

    Raises:
        CheckpointError: no checkpoint there, or one that cannot be read.
    """
    file = folder / NAME
    if not file.is_file():
        raise CheckpointError(
            "there is nothing to resume", file=folder, expected=NAME, found="none", hint="start without --resume"
        )
    try:
        return torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises a dozen types for a damaged file
        raise CheckpointError(
            "the checkpoint cannot be read",
            file=file,
            expected="a file written by msa train",
            found=str(error).splitlines()[0],
            hint="delete it and train again",
        ) from error


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
            file=folder / NAME,
            expected=f"{len(own)} trained tensors of this recipe",
            found=f"{len(state)} others",
            hint="resume with the recipe.yaml of the run folder",
        )
    with torch.no_grad():
        for name, value in state.items():
            own[name].copy_(value)
