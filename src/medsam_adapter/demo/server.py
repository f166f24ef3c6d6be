"""The server: model, page, endpoints, limits."""

from __future__ import annotations

import signal
import sys
import tempfile
import threading
from collections.abc import Sequence
from pathlib import Path

import gradio as gr

from medsam_adapter.demo.endpoints import add_endpoints
from medsam_adapter.demo.events import Events
from medsam_adapter.demo.examples import EXAMPLES
from medsam_adapter.demo.models import Models
from medsam_adapter.demo.page import lay_out
from medsam_adapter.demo.uploads import Limits
from medsam_adapter.demo.visitors import Visitors
from medsam_adapter.demo.workspace import Workspace
from medsam_adapter.inference.predictor import MSAPredictor

STATIC = Path(__file__).parent / "static"
_TIDY_EVERY_S, _KEEP_FILES_S = 600, 3600
_LOOK_ROUND_S = 60
_MAX_WAITING = 64


class Demo:
    """A demo that can be started and closed.

    Args:
        predictor: of the model.
        name: of the model: run folder, Hub id or sam-tiny.
        adapters: further adapters for the menu.
        limits: of uploads.
        most_visitors: how many workspaces are kept at once.
        idle_seconds: silence after which a workspace is freed.

    Example:
        with Demo(MSAPredictor.from_pretrained("sam-tiny"), "sam-tiny") as demo:
            demo.launch(server_port=7860)
    """

    def __init__(
        self,
        predictor: MSAPredictor,
        name: str,
        adapters: Sequence[str] = (),
        limits: Limits | None = None,
        most_visitors: int = 32,
        idle_seconds: float = 3600,
    ):
        self.limits = limits or Limits()
        models = Models(predictor, name, adapters)
        self.visitors = Visitors(lambda: Workspace(models, self.limits), most_visitors, idle_seconds)
        self._is_closed = threading.Event()
        self._examples = tempfile.TemporaryDirectory(prefix="msa-demo-examples-")
        with gr.Blocks(
            title="Medical SAM Adapter", analytics_enabled=False, fill_width=True,
            delete_cache=(_TIDY_EVERY_S, _KEEP_FILES_S),
        ) as self.blocks:  # fmt: skip
            page = lay_out(models, list(EXAMPLES))
            Events(page, self.visitors, Path(self._examples.name)).connect()
            add_endpoints(self.visitors, Path(self._examples.name))

            def leave(request: gr.Request) -> None:
                self.visitors.leave(request.session_hash)

            self.blocks.unload(leave)
        # What does not join the queue could do without a session, and share its workspace with others who do so.
        self.blocks.queue(max_size=_MAX_WAITING, default_concurrency_limit=4, api_open=False)

    def launch(self, **settings) -> str:
        """Start serving in the background; returns the local address. `settings` are `gr.Blocks.launch`'s."""
        threading.Thread(target=self._tidy, daemon=True).start()
        _, address, _ = self.blocks.launch(
            prevent_thread_lock=True, quiet=True, css_paths=STATIC / "page.css", theme=gr.themes.Base(),
            max_file_size=self.limits.upload_bytes, footer_links=["api"], show_error=False, enable_monitoring=False,
            **settings,
        )  # fmt: skip
        return address

    def serve_until_stopped(self) -> None:
        """Wait for Ctrl-C or SIGTERM (exit code 143), as of `docker stop`. In the main thread, inside `with`.

        Raises:
            SystemExit: at SIGTERM, which would end Python at once, and leave the visitors' files behind.
        """
        before = signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
        try:
            self.blocks.block_thread()
        finally:
            signal.signal(signal.SIGTERM, before)

    def _tidy(self) -> None:
        while not self._is_closed.wait(_LOOK_ROUND_S):
            self.visitors.tidy()

    def close(self) -> None:
        """Stop serving and free everything."""
        self._is_closed.set()
        self.blocks.close(verbose=False)
        self.visitors.close()
        self._examples.cleanup()

    def __enter__(self) -> Demo:
        return self

    def __exit__(self, *_) -> None:
        self.close()
