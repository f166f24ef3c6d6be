"""Interleaved timing: each contender runs once a round, so that a slow minute of the machine slows all of them."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from tqdm import tqdm

Call = Callable[[], object]


@dataclass(frozen=True)
class Contender:
    """What is timed.

    Attributes:
        name: unique among those that run together.
        make: builds the model and returns the call to time; what it builds lives as long as the call.
    """

    name: str
    make: Callable[[], Call]


@dataclass
class Timings:
    """What was measured.

    Attributes:
        seconds: of each contender in each counted round.
        results: what the last call of each contender returned.
        processor_seconds: of this process in all counted rounds.
    """

    seconds: dict[str, list[float]]
    results: dict[str, object] = field(default_factory=dict)
    processor_seconds: float = 0.0

    def median(self, name: str) -> float:
        """Seconds."""
        return statistics.median(self.seconds[name])

    def ratio(self, baseline: str, name: str) -> float:
        """How many times as fast as the baseline: the median over rounds, each compared with itself only."""
        pairs = zip(self.seconds[baseline], self.seconds[name], strict=True)
        return statistics.median(before / now for before, now in pairs)


def interleave(title: str, contenders: Sequence[Contender], repeats: int, warmup: int, device: torch.device) -> Timings:
    """Time contenders against each other.

    Args:
        title: shown in the progress bar with the name of the contender that runs.
        repeats: rounds that count.
        warmup: rounds before them that do not.
        device: waited for before each reading of the clock.
    """
    timings = Timings({contender.name: [] for contender in contenders})
    with tqdm(total=(1 + warmup + repeats) * len(contenders), disable=None, leave=False) as bar:
        calls = {}
        for contender in contenders:
            bar.set_description(f"{title}: building {contender.name}")
            calls[contender.name] = contender.make()
            bar.update()
        for number in range(-warmup, repeats):
            for name in calls if number % 2 == 0 else reversed(calls):
                bar.set_description(f"{title}: {name}")
                used = time.process_time()
                seconds, timings.results[name] = _timed(calls[name], device)
                if number >= 0:
                    timings.seconds[name].append(seconds)
                    timings.processor_seconds += time.process_time() - used
                bar.update()
    return timings


def _timed(call: Call, device: torch.device) -> tuple[float, object]:
    _wait(device)
    began = time.perf_counter()
    result = call()
    _wait(device)
    return time.perf_counter() - began, result


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
