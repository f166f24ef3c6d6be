"""`msa train RECIPE [--section.key value]`."""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from typing import Annotated

import typer


def train_command(
    context: typer.Context,
    recipe: Annotated[Path, typer.Argument(help="recipe.yaml, or a folder that holds one.")],
    base: Annotated[str | None, typer.Option("--base", help="Short for --model.base: name, Hub id or folder.")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on from the checkpoint in run.output.")] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Remove an earlier run in run.output.")] = False,
    dry_run: Annotated[
        bool,
        typer.Option("--dry-run", help="Train nothing: print parameters, memory, steps and time of the run."),
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="With --dry-run: print it as JSON.")] = False,
) -> None:
    """Train an adapter, or what model.method names. Any value of the recipe can be given as --section.key VALUE.

    Example: msa train hub_configs/msa-hippocampus/recipe.yaml --data.path my_data --run.output outputs/mine
    """
    from transformers.utils import logging

    from medsam_adapter.training.recipe import load_recipe

    if as_json and not dry_run:
        raise typer.BadParameter("belongs to --dry-run", param_hint="--json")
    logging.disable_progress_bar()
    overrides = [*context.args, *(["--model.base", base] if base else [])]
    loaded = load_recipe(recipe, overrides)
    if dry_run:
        return _print_dry_run(loaded, as_json)
    from medsam_adapter.training.loop import train
    from medsam_adapter.training.processes import process_index

    result = train(loaded, resume, overwrite=overwrite)
    if process_index():  # of several processes one speaks
        return
    typer.echo(f"model: {result.folder}  ({result.seconds / 60:.1f} min)")
    if result.best_dice == result.best_dice:  # not NaN: there were validation cases
        prompts = loaded.run.validate_prompts
        typer.echo(f"best validation Dice, {prompts}: {result.best_dice:.3f} in epoch {result.best_epoch}")
    typer.echo(f"next: msa evaluate {shlex.quote(str(result.folder))}")


def _print_dry_run(recipe, as_json: bool) -> None:
    from medsam_adapter.cli.dry_run_table import print_dry_run
    from medsam_adapter.training.dry_run import dry_run

    found = dry_run(recipe, lambda what: typer.echo(f"measuring {what} ...", err=True))
    if as_json:
        typer.echo(json.dumps(found.as_dict(), indent=1))
    else:
        print_dry_run(found)
