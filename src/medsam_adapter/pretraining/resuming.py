"""What a pre-training goes on from: a checkpoint of its own recipe, and no other."""

from __future__ import annotations

import json
from collections.abc import Collection
from dataclasses import asdict
from pathlib import Path
from typing import Any

from medsam_adapter.errors import CheckpointError


def plain_recipe(recipe: Any) -> dict[str, Any]:
    """The values of a recipe as a checkpoint keeps them: such as JSON has, paths as texts."""
    return json.loads(json.dumps(asdict(recipe), default=str))


def refuse_another_run(recipe: Any, state: dict[str, Any], free: Collection[str], file: Path) -> None:
    """A run goes on as it began; how long, and how often it is kept, may change.

    Args:
        recipe: a dataclass with `steps`.
        state: of the checkpoint; one of earlier versions may hold no recipe, and then its tensors decide.
        free: fields that may differ, besides `steps`.
        file: what holds the values of the run, for the message.

    Raises:
        CheckpointError: a checkpoint of `msa train`, of another recipe, or of a run that is beyond `steps`.
    """
    if "scheduler" in state:  # tensors of the same names, if all of SAM was trained
        raise CheckpointError(
            "there is a checkpoint of `msa train`", file=file.parent, expected="one of the same pre-training",
            found="one of a training", hint="choose another --output",
        )  # fmt: skip
    own, trained = plain_recipe(recipe), state.get("recipe")
    trained = own if trained is None else json.loads(json.dumps(trained))
    other = [name for name in own if name not in (*free, "steps") and own[name] != trained.get(name)]
    if other:
        raise CheckpointError(
            "the checkpoint belongs to another recipe", file=file.parent,
            expected=", ".join(f"{name}: {own[name]}" for name in other),
            found=", ".join(f"{name}: {trained.get(name)}" for name in other),
            hint=f"resume with the values of its {file.name}, or start anew with --overwrite",
        )  # fmt: skip
    if state["step"] > recipe.steps:
        raise CheckpointError(
            "the run has done more steps than the recipe asks for", file=file.parent,
            expected=f"steps: {state['step']} or more", found=f"{state['step']} steps",
            hint=f"resume with more steps than {recipe.steps}, or start anew with --overwrite",
        )  # fmt: skip
