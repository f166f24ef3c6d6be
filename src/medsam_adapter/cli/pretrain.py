"""`msa pretrain promptable RECIPE`: a backbone from nothing, on synthetic scenes."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(help="Train backbones.", no_args_is_help=True)


@app.callback()
def pretrain() -> None:
    """Train backbones."""


@app.command("promptable")
def promptable(
    recipe: Annotated[Path, typer.Argument(help="YAML with the fields of PromptableRecipe.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="Run folder.")] = Path("outputs/sam-tiny"),
    resume: Annotated[bool, typer.Option("--resume", help="Go on from the folder's checkpoint.")] = False,
    stop_after: Annotated[int | None, typer.Option(help="End this session after so many steps.")] = None,
) -> None:
    """Train a promptable SAM from nothing on domain-randomised scenes; never on real data."""
    from medsam_adapter.pretraining.promptable import load_promptable_recipe, pretrain_promptable

    pretrain_promptable(load_promptable_recipe(recipe), output, resume, stop_after)
    typer.echo(f"backbone: {output}\nnext: msa train RECIPE --model.base {output}")
