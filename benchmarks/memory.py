"""The memory that a call adds at its peak, to what lay there before it.

On the CPU this is the resident memory of a process that does nothing else, hence a new process for each contender: a
process that has run another one keeps memory of it. It is that of a first call, with what libraries set up in it.
"""

from __future__ import annotations

import ctypes
import gc
import re
import resource
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import torch
from tqdm import tqdm

from benchmarks.settings import Settings
from benchmarks.timing import Call, Contender


def added_memories(settings: Settings, section: str, contenders: Sequence[Contender]) -> dict[str, int]:
    """Bytes that the first call of each contender adds, by name.

    Args:
        section: where a new process finds the contenders.

    Raises:
        RuntimeError: if a new process failed; its last words are in the text.
    """
    with tqdm(contenders, disable=None, leave=False) as bar:
        sizes = {}
        for contender in bar:
            bar.set_description(f"{section}: memory of {contender.name}")
            sizes[contender.name] = _added_memory(settings, section, contender)
    return sizes


def _added_memory(settings: Settings, section: str, contender: Contender) -> int:
    if settings.device.type == "cuda":
        return measure_added_memory(contender.make(), settings.device)
    command = [sys.executable, "-m", "benchmarks.speed", "--memory-of", f"{section}/{contender.name}"]
    command += ["--model", settings.model, "--device", str(settings.device)] + ["--quick"] * settings.is_quick
    root = Path(__file__).resolve().parents[1]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"measuring the memory of {contender.name!r} failed: {done.stderr[-2000:]}")
    return int(done.stdout.split()[-1])


def measure_added_memory(call: Call, device: torch.device) -> int:
    """Bytes at the peak of a call, less those before it, in this process."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        call()
        torch.cuda.synchronize(device)
        return torch.cuda.max_memory_allocated(device) - before
    before = _resident_after_cleaning()
    call()
    return _peak() - before


def _resident_after_cleaning() -> int:
    """Resident bytes, with the peak set back to them: building a model may have taken more for a moment."""
    try:
        ctypes.CDLL(None).malloc_trim(0)
        Path("/proc/self/clear_refs").write_text("5")
        return _status("VmRSS")
    except (AttributeError, OSError):  # not Linux, or not allowed: the peak of the building hides a part
        return _peak()


def _peak() -> int:
    """The largest resident memory so far, in bytes."""
    try:
        return _status("VmHWM")
    except OSError:
        unit = 1 if sys.platform == "darwin" else 1024
        return unit * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def _status(key: str) -> int:
    found = re.search(rf"{key}:\s+(\d+) kB", Path("/proc/self/status").read_text())
    if not found:
        raise OSError(f"/proc/self/status does not tell {key}")
    return 1024 * int(found[1])
