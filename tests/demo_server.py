"""A demo that runs in this process, and clients of it: `gradio_client`'s, and one that sends what no browser would."""

from __future__ import annotations

import contextlib
import json
import os
import tempfile
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

# Gradio notices that a visitor has left when it next says that it is alive; read at each start.
os.environ["GRADIO_HEARTBEAT_INTERVAL"] = "0.3"
os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"

_JSON = {"Content-Type": "application/json"}


@contextlib.contextmanager
def serving(root: Path, predictor: Any, *adapters: str, **settings: Any) -> Iterator[Any]:
    """A `Demo` on a free port, all of whose files lie below `root`; it has `address` and `root` in addition."""
    from medsam_adapter.demo.server import Demo

    before = tempfile.tempdir, os.environ.get("GRADIO_TEMP_DIR")
    tempfile.tempdir, os.environ["GRADIO_TEMP_DIR"] = str(root), str(root / "gradio")
    try:
        with Demo(predictor, "sam-tiny", adapters, **settings) as demo:
            demo.address, demo.root = demo.launch(), root
            yield demo
    finally:
        tempfile.tempdir = before[0]
        os.environ.pop("GRADIO_TEMP_DIR")
        if before[1] is not None:
            os.environ["GRADIO_TEMP_DIR"] = before[1]


def client(demo: Any, folder: Path) -> Any:
    """A `gradio_client`, which is a visitor of its own and puts what it downloads into a folder."""
    from gradio_client import Client

    return Client(demo.address, verbose=False, download_files=str(folder))


class Raw:
    """A visitor who writes HTTP by hand."""

    def __init__(self, demo: Any):
        import httpx

        self.http = httpx.Client(base_url=demo.address.rstrip("/") + "/gradio_api", timeout=60)
        self.session = uuid.uuid4().hex[:12]

    def upload(self, name: str, content: bytes) -> Any:
        """The server's answer: the path it gave to the file, in a list."""
        return self.http.post("/upload", files=[("files", (name, content))])

    def call(self, endpoint: str, *values: Any) -> tuple[str, Any]:
        """("complete" or "error", what came with it)."""
        said = {"data": list(values), "session_hash": self.session}
        joined = self.http.post(f"/call/{endpoint}", content=json.dumps(said), headers=_JSON)
        if joined.status_code != 200:
            return "refused", joined.text
        kind = ""
        with self.http.stream("GET", f"/call/{endpoint}/{joined.json()['event_id']}") as lines:
            for line in lines.iter_lines():
                if line.startswith("event: "):
                    kind = line.removeprefix("event: ")
                elif line.startswith("data: ") and kind in ("complete", "error"):
                    return kind, json.loads(line.removeprefix("data: "))
        return kind, None

    def close(self) -> None:
        self.http.close()


def file_data(path: str | Path) -> dict[str, Any]:
    """A file as endpoints take it, by a path of the server."""
    return {"path": str(path), "meta": {"_type": "gradio.FileData"}}
