"""`msa train RECIPE [--section.key value]`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer


def train_command(
    context: typer.Context,
    recipe: Annotated[Path, typer.Argument(help="recipe.yaml, or a folder that holds one.")],
    base: Annotated[str | None, typer.Option("--base", help="Short for --model.base: name, Hub id or folder.")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on from the checkpoint in run.output.")] = False,
) -> None:
    """Train an adapter. Any value of the recipe can be given as --section.key VALUE."""
    from transformers.utils import logging

    from medsam_adapter.training.loop import train
    from medsam_adapter.training.recipe import load_recipe

    logging.disable_progress_bar()
    overrides = [*context.args, *(["--model.base", json.dumps(base)] if base else [])]
    result = train(load_recipe(recipe, overrides), resume)
    typer.echo(f"adapter: {result.folder}  ({result.seconds / 60:.1f} min)")
    if result.best_dice == result.best_dice:  # not NaN: there were validation cases
        typer.echo(f"best validation Dice at one click: {result.best_dice:.3f} in epoch {result.best_epoch}")
    typer.echo(f"next: msa evaluate {result.folder}")
