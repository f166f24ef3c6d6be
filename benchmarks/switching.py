"""`python -m benchmarks.switching`: switching between adapters of one model, against opening them again.

No weights are needed (a switch moves none), so that ViT-H is measured in a second. Reported: the median of a switch by
`set_adapter`, of a call's worth of `using_adapter`, and the ratio to opening the adapter's folder anew (sam-tiny).
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch

from benchmarks.models import ARCHITECTURES
from medsam_adapter import MSAAdapterConfig, MSAConfig, MSAModel

ADAPTERS = ("a", "b", "c")


def main() -> None:
    """Print a line for each model."""
    parser = argparse.ArgumentParser("python -m benchmarks.switching", description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=50, help="switches that count")
    repeats = parser.parse_args().repeats
    print("| model | wrapped layers | set_adapter ms | using_adapter ms |\n|---|---:|---:|---:|")
    for name, sizes in ARCHITECTURES.items():
        with torch.device("meta"):
            model = MSAModel(MSAConfig(vision_config=dict(sizes)))
            for adapter in ADAPTERS:
                model.add_msa_adapter(MSAAdapterConfig(use_depth=True), adapter)
        print(f"| {name} | {len(model.vision_encoder.layers) + 2} | {_switch(model, repeats)} |", flush=True)
    print(f"\nsam-tiny: {_against_opening(repeats)}")


def _switch(model: MSAModel, repeats: int) -> str:
    def within(name: str) -> None:
        with model.using_adapter(name):
            pass

    return " | ".join(f"{1000 * _median(call, repeats):.2f}" for call in (model.set_adapter, within))


def _median(call: Callable[[str], None], repeats: int) -> float:
    seconds = []
    for number in range(repeats):
        began = time.process_time()  # one thread and no waiting: the same on a machine that is busy otherwise
        call(ADAPTERS[number % len(ADAPTERS)])
        seconds.append(time.process_time() - began)
    return statistics.median(seconds)


def _against_opening(repeats: int) -> str:
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        MSAModel.from_base("sam-tiny", MSAAdapterConfig(use_depth=True)).save_pretrained(folder)
        model = MSAModel.from_pretrained(folder, adapter_name="a")
        for name in ADAPTERS[1:]:
            model.load_adapter(folder, adapter_name=name)
        switch = _median(model.set_adapter, repeats)
        opening = _median(lambda _: MSAModel.from_pretrained(folder) and None, 5)
    return f"a switch {1000 * switch:.2f} ms, opening the folder {1000 * opening:.0f} ms, ratio {opening / switch:.0f}"


if __name__ == "__main__":
    main()
