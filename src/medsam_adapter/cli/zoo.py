"""`msa zoo`: the adapters there are, on the Hub and here.

Only typer and the standard library are imported here, so that `msa --help` answers at once.
"""

from __future__ import annotations

import dataclasses
import json
import shlex
from pathlib import Path
from typing import Annotated

import typer

DEFAULT_FOLDER = Path("outputs")


def zoo_command(
    folders: Annotated[
        list[Path] | None,
        typer.Argument(metavar="FOLDER...", help="Where to look for run folders; outputs if left out."),
    ] = None,
    local: Annotated[bool, typer.Option("--local", help="Only here, without asking the Hub.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """List adapters: published ones (tag msa-adapter) and run folders. Without a network, only the latter.

    Example: msa zoo outputs/mine
    """
    from medsam_adapter.errors import CheckpointError
    from medsam_adapter.hub.zoo import local_adapters, published_adapters

    for folder in folders or []:
        if not folder.is_dir():
            raise CheckpointError(
                "there is no such folder", file=folder, expected="a folder with runs", found="nothing"
            )
    here, unread = local_adapters(folders or [DEFAULT_FOLDER])
    published, why_not = ([], "not asked (--local)") if local else published_adapters()
    entries = [*published, *here]
    if as_json:
        rows = [dataclasses.asdict(entry) for entry in entries]
        typer.echo(json.dumps({"adapters": rows, "hub": why_not or "asked", "unread": unread}))
        return
    if entries:
        _print(entries)
    for line in unread:
        typer.secho(f"left out: {line}", err=True, fg=typer.colors.YELLOW)
    if why_not and not local:
        typer.secho(f"only local adapters; the Hub was not reached: {why_not}", err=True, fg=typer.colors.YELLOW)
    counts = f"{len(published)} on the Hub, " if not why_not else ""
    typer.echo(f"{counts}{len(here)} here ({', '.join(map(str, folders or [DEFAULT_FOLDER]))})")
    typer.echo(
        f"next: msa predict {shlex.quote(entries[0].name)} SCAN --point x,y,z -o mask.nii.gz"
        if entries
        else "next: msa train RECIPE makes one, or msa zoo FOLDER looks elsewhere"
    )


NUM_SHOWN = 4


def _shortened(targets: list[str]) -> str:
    more = len(targets) - NUM_SHOWN
    return ", ".join(targets[:NUM_SHOWN]) + (f" and {more} more" if more > 0 else "")


def _print(entries) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table()
    for heading in ("adapter", "segments", "modality", "base"):
        table.add_column(heading, overflow="fold")
    for heading in ("MB", "Dice"):
        table.add_column(heading, justify="right")
    table.add_column("Dice of", overflow="fold")
    for entry in entries:
        table.add_row(
            entry.name + (" (private)" if entry.private else ""), _shortened(entry.targets), entry.modality, entry.base,
            "" if entry.size_mb is None else f"{entry.size_mb:.1f}", "" if entry.dice is None else f"{entry.dice:.3f}",
            entry.dice_of,
        )  # fmt: skip
    # Names are other people's: [x] in them is no markup.
    Console(markup=False, emoji=False, highlight=False).print(table)
