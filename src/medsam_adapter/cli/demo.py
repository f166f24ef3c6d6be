"""`msa demo [MODEL]`: segment scans in the browser."""

from __future__ import annotations

import time
from typing import Annotated

import typer


def demo_command(
    model: Annotated[str, typer.Argument(help="Run folder, Hub id, or sam-tiny.")] = "sam-tiny",
    adapters: Annotated[
        str, typer.Option(metavar="A,B", help="Further adapters for the menu: run folders or Hub ids, by commas.")
    ] = "",
    port: Annotated[int | None, typer.Option(min=1, max=65535, help="Port; the first free one from 7860.")] = None,
    host: Annotated[str, typer.Option(help="Address; 0.0.0.0 lets other machines in.")] = "127.0.0.1",
    max_upload_mb: Annotated[int, typer.Option(min=1, help="Largest upload.")] = 256,
    open_browser: Annotated[bool, typer.Option("--open", help="Open the page in a browser.")] = False,
) -> None:
    """Serve the page until Ctrl-C. Scans stay on this machine.

    Example: msa demo sam-tiny --adapters outputs/quickstart/msa-phantom
    """
    began = time.perf_counter()
    from medsam_adapter.errors import CheckpointError

    try:
        import gradio  # noqa: F401
    except ImportError as error:
        raise CheckpointError(
            "the demo needs Gradio", expected="the extra 'demo'", found="an installation without it",
            hint="pip install 'medsam-adapter[demo]'",
        ) from error  # fmt: skip
    from medsam_adapter.baselines.predictor import NetworkPredictor
    from medsam_adapter.cli.models import open_predictor
    from medsam_adapter.demo.server import Demo
    from medsam_adapter.demo.uploads import Limits

    predictor = open_predictor(model)
    if isinstance(predictor, NetworkPredictor):
        raise CheckpointError(
            "this network takes no prompts", file=model, expected="a SAM or an adapter", found="a network without",
            hint="msa predict segments with it",
        )  # fmt: skip
    chosen = [name.strip() for name in adapters.split(",") if name.strip()]
    limits = Limits(upload_bytes=max_upload_mb * 2**20, unpacked_bytes=3 * max_upload_mb * 2**20)
    with Demo(predictor, model, chosen, limits) as demo:
        try:
            address = demo.launch(server_name=host, server_port=port, inbrowser=open_browser)
        except OSError as error:
            raise CheckpointError(
                "the port is taken", expected="a free port", found=str(port), hint="msa demo --port 7861"
            ) from error
        typer.echo(f"{address}   ready in {time.perf_counter() - began:.1f} s; Ctrl-C ends it")
        demo.serve_until_stopped()
