"""`msa pretrain promptable RECIPE`: a backbone from nothing, on synthetic scenes.

`msa pretrain ssl RECIPE [--key value]`: SAM's image encoder, self-supervised, on unlabelled pictures.
`msa pretrain text RECIPE`: a small text model for the words of the bank of texts.
"""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Annotated

import typer

OVERWRITE = typer.Option("--overwrite", help="Remove an earlier run in the folder.")

app = typer.Typer(help="Train backbones.", no_args_is_help=True)


@app.callback()
def pretrain() -> None:
    """Train backbones."""


@app.command("promptable")
def promptable(
    recipe: Annotated[Path, typer.Argument(help="YAML with the fields of PromptableRecipe.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="Run folder.")] = Path("outputs/sam-tiny"),
    resume: Annotated[bool, typer.Option("--resume", help="Go on from the folder's checkpoint.")] = False,
    overwrite: Annotated[bool, OVERWRITE] = False,
    stop_after: Annotated[int | None, typer.Option(min=1, help="End this session after so many steps.")] = None,
) -> None:
    """Train a promptable SAM from nothing on domain-randomised scenes; never on real data.

    Example: msa pretrain promptable hub_configs/sam-tiny/recipe.yaml -o outputs/sam-tiny
    """
    from accelerate import PartialState

    from medsam_adapter.pretraining.promptable import load_promptable_recipe, pretrain_promptable

    values = load_promptable_recipe(recipe)
    step = pretrain_promptable(values, output, resume, stop_after, overwrite)
    if not PartialState().is_main_process:
        return
    if step < values.steps:  # the backbone is written at the end
        typer.echo(f"{output}: step {step} of {values.steps}")
        typer.echo(f"next: msa pretrain promptable {shlex.quote(str(recipe))} -o {shlex.quote(str(output))} --resume")
    else:
        typer.echo(f"backbone: {output}\nnext: msa train RECIPE --model.base {shlex.quote(str(output))}")


@app.command("ssl", context_settings={"allow_extra_args": True, "ignore_unknown_options": True})
def ssl(
    context: typer.Context,
    recipe: Annotated[Path, typer.Argument(help="YAML with the fields of SslRecipe, or a folder that holds one.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="Run folder.")] = Path("outputs/ssl"),
    resume: Annotated[bool, typer.Option("--resume", help="Go on from the folder's checkpoint.")] = False,
    overwrite: Annotated[bool, OVERWRITE] = False,
    stop_after: Annotated[int | None, typer.Option(min=1, help="End this session after so many steps.")] = None,
) -> None:
    """Pre-train an image encoder on unlabelled pictures: e-Mix, ShED, MAE. Any value can be given as --key VALUE.

    Example: msa pretrain ssl hub_configs/ssl-tiny/recipe.yaml -o outputs/ssl
    """
    from accelerate import PartialState
    from transformers.utils import logging

    from medsam_adapter.pretraining.ssl import pretrain_ssl
    from medsam_adapter.pretraining.ssl_recipe import load_ssl_recipe

    logging.disable_progress_bar()
    values = load_ssl_recipe(recipe, context.args)
    result = pretrain_ssl(values, output, resume, stop_after, overwrite=overwrite)
    if not PartialState().is_main_process:
        return
    what = "encoder" if values.train == "encoder" else "adapter"
    typer.echo(f"{what}: {result.folder}  (step {result.step} of {values.steps}, {result.seconds / 60:.1f} min)")
    if result.num_skipped:
        typer.echo(f"{result.num_skipped} pictures could not be read: {result.folder / 'skipped.jsonl'} names them")
    if result.check:
        typer.echo("held pictures: " + ", ".join(f"{name} {value:g}" for name, value in result.check.items()))
    folder = shlex.quote(str(result.folder))
    if result.step < values.steps:
        typer.echo(f"next: msa pretrain ssl {folder} -o {folder} --resume")
    else:
        typer.echo(f"next: msa train RECIPE --base {folder}")


@app.command("text")
def text(
    recipe: Annotated[Path, typer.Argument(help="YAML with the fields of TextModelRecipe.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder of the text model.")] = Path(
        "outputs/clip-tiny"
    ),
    overwrite: Annotated[bool, OVERWRITE] = False,
) -> None:
    """Train a small CLIP text model on the training sentences of the bank of texts; a minute or two, offline.

    Example: msa pretrain text hub_configs/clip-tiny/recipe.yaml -o outputs/clip-tiny
    """
    from medsam_adapter.cli.progress import bar
    from medsam_adapter.pretraining.text_model import load_text_model_recipe, train_text_model
    from medsam_adapter.training.checkpoint import clear_checkpoints, refuse_earlier_run
    from medsam_adapter.training.run_folder import clear_run

    if not overwrite:
        refuse_earlier_run(output)
    values = load_text_model_recipe(recipe)
    clear_run(output)
    clear_checkpoints(output)
    with bar("training a text model", values.steps, "step") as show:
        shares = train_text_model(values, output, show)
    typer.echo(
        f"text model: {output}\nsentences whose targets it names exactly: {shares['train']:.1%} of the training part, "
        f"{shares['held_out']:.1%} of the held-out part\n"
        f"next: msa train RECIPE --prompts.text 1 --text.model {shlex.quote(str(output))}"
    )
