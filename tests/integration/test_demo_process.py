"""`msa demo` as a process of its own: what it leaves behind when it is told to end."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

pytest.importorskip("gradio")

from gradio_client import Client, handle_file  # noqa: E402

from demo_server import client, serving  # noqa: E402
from demo_setup import adapted, write_organ  # noqa: E402
from medsam_adapter.demo import server  # noqa: E402
from medsam_adapter.inference.predictor import MSAPredictor  # noqa: E402

pytestmark = pytest.mark.slow


@pytest.mark.parametrize(("by", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 0)])
def test_the_end_of_the_process_frees_what_visitors_opened(tmp_path, by, code):
    scan = write_organ(tmp_path / "organ.nii.gz")
    place = tmp_path / "tmp"
    place.mkdir()
    command = [sys.executable, "-m", "medsam_adapter.cli.main", "demo", "sam-tiny"]
    settings = {"TMPDIR": str(place), "GRADIO_TEMP_DIR": str(place / "gradio"), "GRADIO_ANALYTICS_ENABLED": "False"}
    with subprocess.Popen(
        command, env=os.environ | settings, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    ) as process:
        try:
            assert process.stdout is not None
            address = process.stdout.readline().split()[0]
            visitor = Client(address, verbose=False, download_files=str(tmp_path / "down"))
            visitor.predict([handle_file(scan)], api_name="/open")
            assert opened(place), "the scan lies elsewhere, so this test would see nothing"
            process.send_signal(by)
            assert process.wait(60) == code
        finally:
            process.kill()
    assert opened(place) == []


def test_silence_frees_a_visitor_though_nobody_else_comes(tmp_path, randomise, quiet, monkeypatch):
    monkeypatch.setattr(server, "_LOOK_ROUND_S", 0.1)
    scan = write_organ(tmp_path / "organ.nii.gz")
    (tmp_path / "root").mkdir()
    with serving(tmp_path / "root", MSAPredictor(adapted(randomise), device="cpu"), idle_seconds=0.5) as demo:
        visitor = client(demo, tmp_path)
        visitor.predict([handle_file(scan)], api_name="/open")
        for _ in range(100):  # the page stays open, and says nothing
            if not len(demo.visitors):
                break
            time.sleep(0.1)
        assert not len(demo.visitors)
        visitor.close()


def opened(place: Path) -> list[str]:
    return [name for at, _, names in os.walk(place) for name in names if "msa-demo-" in at]
