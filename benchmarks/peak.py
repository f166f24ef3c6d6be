"""What a processor could multiply and add at most: the arithmetic that no program can beat (peak.c)."""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from pathlib import Path

import torch

SOURCE = Path(__file__).with_name("peak.c")


def peak_gflops(device: torch.device) -> dict[str, float]:
    """GFLOP/s of each dtype with torch's number of threads; empty where peak.c cannot be built or run."""
    compiler = shutil.which("cc")
    flags = Path("/proc/cpuinfo").read_text() if Path("/proc/cpuinfo").exists() else ""
    if device.type != "cpu" or compiler is None or "avx512f" not in flags:
        return {}
    with tempfile.TemporaryDirectory() as folder:
        program = Path(folder, "peak")
        options = ["-O2", "-fopenmp", "-mavx512f", "-mavx512bf16"]
        built = subprocess.run([compiler, *options, str(SOURCE), "-o", str(program)], capture_output=True)
        if built.returncode:
            return {}
        lines = subprocess.check_output([program, str(torch.get_num_threads())], text=True).splitlines()
    return {name: float(speed) for name, speed in map(str.split, lines)}
