"""The benchmark program runs from start to end; its figures are not a matter for tests."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def test_every_section_runs_on_a_tiny_model(tmp_path):
    output = tmp_path / "speed.json"
    command = [sys.executable, "-m", "benchmarks.speed", "--model", "tiny", "--quick", "--output", str(output)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    content = json.loads(output.read_text())
    titles = " ".join(table["title"] for table in content["tables"])
    for word in ("Matrix product", "Encoder", "Adapters", "Training step", "feature cache", "Volume", "click"):
        assert word in titles, word
    assert all(table["rows"] and f"### {table['title']}" in done.stdout for table in content["tables"])
    assert content["about"]["command"].startswith("python -m benchmarks.speed --model tiny")


def test_an_unknown_section_is_named():
    command = [sys.executable, "-m", "benchmarks.speed", "--only", "encoder-512"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 2 and "encoder-512" in done.stderr and "encoder-256" in done.stderr


def test_the_dry_run_beside_a_real_step():
    command = [sys.executable, "-m", "benchmarks.dry_run", "--case", "sam-tiny, decoder, 8 slices"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    found = json.loads(done.stdout.splitlines()[-1])
    assert min(found.values()) > 0
