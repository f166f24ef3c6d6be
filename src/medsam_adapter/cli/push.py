"""`msa push RUN --repo ORG/NAME`: publish a run on the Hugging Face Hub.

Only typer and the standard library are imported here, so that `msa --help` answers at once.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer


def push_command(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="Folder of a finished run.")],
    repo: Annotated[str, typer.Option(metavar="ORG/NAME", help="The repo; made if it is not there.")],
    private: Annotated[bool, typer.Option("--private", help="A new repo that only you can see.")] = False,
    full: Annotated[
        bool, typer.Option("--full", help="The base's weights, too: opens without any other repo.")
    ] = False,
    licence: Annotated[str | None, typer.Option(help="Licence of what is published; the base's if left out.")] = None,
    base: Annotated[str | None, typer.Option(metavar="ORG/NAME", help="Repo of a base that is a folder here.")] = None,
    dtype: Annotated[str | None, typer.Option(help="fp32, bf16 or fp16: bf16 halves an adapter's file.")] = None,
    results: Annotated[
        list[Path] | None, typer.Option(help="Folder of an evaluation, in addition to those in the run folder.")
    ] = None,
    space: Annotated[bool, typer.Option("--space", help="Also a Space of the same name with the demo.")] = False,
    demo: Annotated[Path, typer.Option(help="With --space: the folder of the demo.")] = Path("demos"),
    force: Annotated[
        bool, typer.Option("--force", help="Even without scores, with scores of other weights, or an unknown licence.")
    ] = False,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Write it into this new folder to look at; publish nothing.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Publish weights, recipe, scores and a card made from the run, in one commit.

    Never published: checkpoints, optimizer state, pictures, paths of this machine, tokens. A failed upload can be
    repeated.

    Example: msa push outputs/mine --repo org/msa-mine
    """
    from medsam_adapter.data.parquet.tables import refuse_used_folder
    from medsam_adapter.errors import CheckpointError

    if dtype not in (None, "fp32", "bf16", "fp16"):
        raise CheckpointError("--dtype is not usable", expected="fp32, bf16 or fp16", found=dtype)
    from transformers.utils import logging

    from medsam_adapter.hub.publish import PushOptions, check_demo, push_run, push_space, stage_run

    logging.disable_progress_bar()
    options = PushOptions(repo, full, licence, base, dtype, tuple(results or ()), force)
    if space:
        check_demo(demo)  # before anything is published
    if output:
        refuse_used_folder(output)
        staged, address, space_address = stage_run(run, output, options), None, None
    else:
        address, staged = push_run(run, options, private=private)
        space_address = push_space(demo, repo, repo, private=private) if space else None
    if as_json:
        facts = {"repo": repo, "commit": address, "space": space_address, "files": staged.files, "notes": staged.notes}
        typer.echo(json.dumps(facts | ({"output": str(output)} if output else {})))
        return
    for name, size in staged.files.items():
        typer.echo(f"  {size / 1e6:9.3f} MB  {name}")
    for note in staged.notes:
        typer.secho(f"note: {note}", fg=typer.colors.YELLOW)
    if output:
        typer.echo(f"nothing is published; read {output / 'README.md'}, then run the same without -o")
        return
    typer.echo(f"published: {address}")
    if space_address:
        typer.echo(f"space: {space_address}")
    typer.echo(f"next: msa predict {repo} SCAN --point x,y,z -o mask.nii.gz")
