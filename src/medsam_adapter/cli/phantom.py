"""`msa data phantom FOLDER`: made-up abdominal CTs with organ labels, to try things on without a patient."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Annotated

import typer


def phantom_command(
    folder: Annotated[Path, typer.Argument(help="Where the data set is written, in MSD form.")],
    cases: Annotated[int, typer.Option(min=1, help="Number of volumes.")] = 24,
    seed: Annotated[int, typer.Option(min=0, help="Another seed makes other patients.")] = 0,
) -> None:
    """Write made-up abdominal CTs with six labelled organs.

    Example: msa data phantom outputs/phantom --cases 24
    """
    from medsam_adapter.cli.progress import bar
    from medsam_adapter.data.phantom import write_phantom_dataset

    with bar("writing phantom CTs", cases, "volume") as show:
        write_phantom_dataset(folder, cases, seed, progress=show)
    typer.echo(f"{cases} volumes: {folder}\nnext: msa data check {shlex.quote(str(folder))}")
