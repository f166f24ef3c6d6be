"""Prediction of many driven by Ray Data; skipped without Ray (extra `ray`)."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.slow
def test_two_workers_share_the_cases_and_go_on(tiny_base, tmp_path):
    pytest.importorskip("ray")
    command = [sys.executable, "-m", "benchmarks.ray_predict", "--model", str(tiny_base), "--cases", "12"]
    command += ["--output", str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-2000:]
    assert "12 cases: 11 done, 1 failed" in done.stdout and done.stdout.count("worker") == 2
    assert len(list((tmp_path / "masks").glob("*.nii.gz"))) == 11
    again = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert "12 cases: 11 done, 1 failed" in again.stdout and "worker" not in again.stdout
