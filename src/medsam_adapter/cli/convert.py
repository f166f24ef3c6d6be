"""`msa convert FILE -o FOLDER`: checkpoints of other code to folders of this library; `--to official` the other way."""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from typing import Annotated

import typer


def convert_command(
    file: Annotated[str, typer.Argument(metavar="FILE", help="A .pth file; with --to official, a run or Hub id.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder to make (a .pth file with --to).")],
    kind: Annotated[str, typer.Option(help="auto, sam (Meta's), medsam, official (the public MSA code).")] = "auto",
    to: Annotated[str | None, typer.Option("--to", help="official: write a file for the public MSA code.")] = None,
    base: Annotated[
        str | None, typer.Option(help="SAM of an official checkpoint: Hub id, folder, sam-tiny; by width if left out.")
    ] = None,
    name: Annotated[str, typer.Option(help="Title of the model card; the folder's name if left out.")] = "",
    dims: Annotated[str | None, typer.Option(help="2d or 3d, where an official file leaves it open.")] = None,
    slices: Annotated[
        int | None, typer.Option(min=1, help="-chunk of an official 3-D training; 96 if left out.")
    ] = None,
    image_size: Annotated[
        int | None, typer.Option(min=1, help="-image_size of an official training; the base's if left out.")
    ] = None,
    positions: Annotated[
        str | None,
        typer.Option(help="Blocks that had relative positions: all, windowed, none; as the file shows if left out."),
    ] = None,
    clicks: Annotated[
        str | None, typer.Option(help="Order the decoder was trained with: yx, xy; yx if it has a decoder.")
    ] = None,
    pixels: Annotated[
        str | None,
        typer.Option(help="What the encoder got: unit, 0 to 1; sam, normalised as 0 to 255; unit if left out."),
    ] = None,
    adapters_only: Annotated[
        bool, typer.Option("--adapters-only", help="Leave a trained mask decoder (with --to: all of SAM) out.")
    ] = False,
    drop_unknown: Annotated[
        bool, typer.Option("--drop-unknown", help="With --to: leave out what the public code has no place for.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Convert a checkpoint of other code. Files are read as tensors only: nothing in them is run.

    Example: msa convert checkpoint_best.pth -o outputs/official
    """
    choices = dict(
        base=base, dims=dims, slices=slices, image_size=image_size, positions=positions, clicks=clicks, pixels=pixels
    )
    _check_words(kind, to, choices)
    from transformers.utils import logging

    logging.disable_progress_bar()
    if to:
        from medsam_adapter.hub.convert.to_official import convert_to_official

        _refuse(choices, "--to official takes the form from the run")
        notes = convert_to_official(file, output, drop_unknown=drop_unknown, adapters_only=adapters_only)
        found, following = "a checkpoint of the public MSA code", ""
    else:
        if drop_unknown:
            _refuse({"drop_unknown": True}, "it belongs to --to official")
        found, notes = _convert(file, output, kind, name, choices, adapters_only)
        following = f"msa predict {shlex.quote(str(output))} IMAGE --point x,y -o MASK"
    if as_json:
        typer.echo(json.dumps({"output": str(output), "kind": found, "notes": notes}))
        return
    typer.echo(f"{output}: {found}")
    for note in notes:
        typer.echo(f"  {note}")
    if following:
        typer.echo(f"next: {following}")


def _convert(
    file: str, output: Path, kind: str, name: str, choices: dict, adapters_only: bool
) -> tuple[str, list[str]]:
    """What it was, and notes on it."""
    from medsam_adapter.hub.convert.checkpoint_file import kind_of, read_checkpoint
    from medsam_adapter.hub.convert.whole_folder import refuse_used

    refuse_used(output)
    checkpoint = read_checkpoint(file)
    found = kind_of(checkpoint)
    if kind == "official" and found != "official":
        from medsam_adapter.errors import CheckpointError

        raise CheckpointError(
            "has no adapters of the public MSA code", file=file, expected="image_encoder.blocks.0.Space_Adapter. ...",
            found=f"a SAM ({found})", hint="leave --kind out",
        )  # fmt: skip
    kind = found if kind == "auto" else kind
    if kind == "official":
        from medsam_adapter.hub.convert.official_msa import OfficialChoices, convert_official

        notes = convert_official(checkpoint, output, OfficialChoices(**choices, adapters_only=adapters_only), name)
        return "an MSA adapter, converted from the public code", notes
    from medsam_adapter.hub.convert.meta_sam import VARIANTS, convert_sam

    _refuse(choices | ({"adapters_only": True} if adapters_only else {}), "it belongs to official checkpoints")
    config = convert_sam(checkpoint, output, kind)
    vision = config.vision_config
    size = VARIANTS.get(vision.hidden_size, f"of width {vision.hidden_size}")
    notes = [f"{vision.num_hidden_layers} blocks, {vision.image_size} px; every tensor found its place."]
    if kind == "medsam":
        notes.append("Pixel values reach the encoder in [0, 1], as MedSAM was trained.")
    if found == "official":
        notes.append("Taken out of a checkpoint of the public MSA code, without its adapters.")
    return f"{'MedSAM' if kind == 'medsam' else 'SAM'} {size}", notes


def _check_words(kind: str, to: str | None, choices: dict) -> None:
    for option, value, words in (
        ("--kind", kind, ("auto", "sam", "medsam", "official")),
        ("--to", to, (None, "official")),
        ("--dims", choices["dims"], (None, "2d", "3d")),
        ("--positions", choices["positions"], (None, "all", "windowed", "none")),
        ("--clicks", choices["clicks"], (None, "yx", "xy")),
        ("--pixels", choices["pixels"], (None, "unit", "sam")),
    ):
        if value not in words:
            raise typer.BadParameter(f"{option} is one of {', '.join(w for w in words if w)}, found {value!r}")


def _refuse(choices: dict, why: str) -> None:
    for name, value in choices.items():
        if value is not None:
            raise typer.BadParameter(f"--{name.replace('_', '-')} has no place here: {why}")
