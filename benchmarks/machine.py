"""The machine that the figures come from, and how fast it multiplies matrices: what an encoder can hope for."""

from __future__ import annotations

import datetime
import os
import platform
import re
import shlex
import sys
from collections.abc import Callable
from pathlib import Path

import torch
import torch.nn.functional as F
import transformers
from torch import Tensor

import medsam_adapter
from benchmarks.models import DTYPES
from benchmarks.peak import peak_gflops
from benchmarks.report import Table, figure
from benchmarks.settings import Settings
from benchmarks.timing import Call, Contender
from medsam_adapter.adapters.linear import may_use_onednn, onednn_product
from medsam_adapter.native import library

ROWS, INNER, COLUMNS = 2048, 768, 3072
"""The first product of ViT-B's MLP on half the tokens of a 1024 px image."""


def describe(settings: Settings) -> dict[str, object]:
    """Machine, versions, date and command, for the JSON file and the heading."""
    return {
        "date": datetime.datetime.now().astimezone().isoformat(timespec="seconds"),
        "command": shlex.join(["python", "-m", "benchmarks.speed", *sys.argv[1:]]),
        "platform": platform.platform(),
        "processor": _processor_name(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "attention_kernel": ["not built", "fp32", "fp32 and bf16"][library.level()],
        "gpu": torch.cuda.get_device_name(settings.device) if settings.device.type == "cuda" else None,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "medsam_adapter": medsam_adapter.__version__,
        "model": settings.model,
        "repeats": settings.repeats,
    }


def heading(about: dict[str, object]) -> str:
    """`describe` in two lines."""
    where = about["gpu"] or f"{about['processor']}, {about['cores']} cores, {about['threads']} threads"
    return (
        f"`{about['command']}`, {str(about['date'])[:10]}, {about['model']}, medians of {about['repeats']} rounds\n"
        f"{where} ({about['cpu_capability']}); torch {about['torch']}, transformers {about['transformers']}; "
        f"attention kernel: {about['attention_kernel']}\n"
    )


def measure_products(settings: Settings) -> tuple[dict[str, float], Table]:
    """GFLOP/s of the fastest matrix product in each dtype, and the table of all of them."""
    # One product is over in microseconds on an accelerator, less than it takes to start it.
    calls = 200 if settings.device.type == "cuda" else 3
    contenders = []
    for name, dtype in DTYPES.items():
        left = torch.randn(ROWS, INNER, device=settings.device).to(dtype)
        right = torch.randn(COLUMNS, INNER, device=settings.device).to(dtype)
        contenders.append(_product(f"F.linear, {name}", F.linear, left, right, calls))
        if may_use_onednn(left):
            contenders.append(_product(f"oneDNN, {name}", onednn_product, left, right, calls))
    timings = settings.interleave("matrix product", contenders)
    table = Table(f"Matrix product, {ROWS} x {INNER} x {COLUMNS}", ["product", "ms", "GFLOP/s"])
    table.keep(timings)
    best: dict[str, float] = {}
    for contender in contenders:
        each = timings.median(contender.name) / calls
        speed = 2e-9 * ROWS * INNER * COLUMNS / each
        table.rows.append([contender.name, figure(1e3 * each), figure(speed)])
        name = contender.name.split(", ")[-1]
        best[name] = max(best.get(name, 0.0), speed)
    for name, speed in peak_gflops(settings.device).items():
        table.rows.append([f"none: multiply-adds in registers, {name}", "", figure(speed)])
    return best, table


def _product(
    name: str, product: Callable[[Tensor, Tensor], Tensor], left: Tensor, right: Tensor, calls: int
) -> Contender:
    @torch.no_grad()
    def call() -> None:
        for _ in range(calls):
            product(left, right)

    def make() -> Call:
        return call

    return Contender(name, make)


def _processor_name() -> str:
    try:
        found = re.search(r"model name\s*:\s*(.+)", Path("/proc/cpuinfo").read_text())
    except OSError:
        found = None
    return found[1].strip() if found else platform.processor()
