"""Memory and time of one part of a model, measured by running it once or twice with random weights.

A meter sees every operation, so the bytes are those of the kernels that really run, autograd's savings included. What a
kernel takes and gives back within one operation is not seen.

Shapes: B volumes (or pictures), D slices each.
"""

from __future__ import annotations

import contextlib
import copy
import statistics
import time
import weakref
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

REPEATS = 3
"""Runs that are timed; the median counts."""
WARM_SECONDS = 1.0
"""A first run that takes so long counts as one of them."""


@dataclass
class Cost:
    """What one part of a training step takes.

    Attributes:
        kept_bytes: alive when its forward pass is over, until its backward pass.
        working_bytes: more at the peak of its forward or backward pass.
        seconds: forward and backward.
    """

    kept_bytes: float = 0.0
    working_bytes: float = 0.0
    seconds: float = 0.0


@dataclass
class Sample:
    """One measured size of a part: B volumes of D slices."""

    volumes: int
    slices: int
    kept_bytes: int
    working_bytes: int
    seconds: float


class AllocationMeter(TorchDispatchMode):
    """Bytes of the tensors that operations inside have made: those that are still alive, and the most at any time."""

    def __init__(self):
        super().__init__()
        self.alive = self.peak = 0
        self._storages: dict[int, weakref.ref] = {}

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        given = {tensor.untyped_storage()._cdata for tensor in _tensors((args, kwargs))}
        for tensor in _tensors(out):  # a view, or what was written into, is nothing new
            storage = tensor.untyped_storage()
            if storage._cdata not in given and storage._cdata not in self._storages:
                self._watch(storage)
        return out

    def _watch(self, storage: torch.UntypedStorage) -> None:
        key, size = storage._cdata, storage.nbytes()

        def gone(_) -> None:
            self.alive -= size
            self._storages.pop(key, None)

        self._storages[key] = weakref.ref(storage, gone)
        self.alive += size
        self.peak = max(self.peak, self.alive)


def _tensors(tree) -> list[Tensor]:
    return [leaf for leaf in tree_leaves(tree) if isinstance(leaf, Tensor)]


def materialise(module: nn.Module) -> nn.Module:
    """A copy of a module of the meta device, in memory, with random weights."""
    made = copy.deepcopy(module).to_empty(device="cpu")
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for tensor in [*made.parameters(), *made.buffers()]:
            if tensor.is_floating_point():
                tensor.normal_(std=0.02, generator=generator)
    return made


def run_once(
    forward: Callable[[], Tensor], context: Callable[[], contextlib.AbstractContextManager], repeats: int
) -> tuple[int, int, float]:
    """Kept bytes, working bytes and seconds of a forward pass, and of the backward pass if there is one.

    Args:
        context: made anew for each pass (autocast keeps what it has cast as long as it lasts).
        repeats: timed runs, of which the one under the meter is one if it is long; without any, seconds is 0 and
            nothing runs backward.
    """
    meter, began = AllocationMeter(), time.perf_counter()
    with context():
        with meter:
            out = forward()
        kept, working = meter.alive, meter.peak - meter.alive
        if not out.requires_grad:  # each part frees what the one before has left
            kept, working = 0, meter.peak
        elif repeats:
            grad, meter.peak = torch.ones_like(out), meter.alive
            with meter:
                out.backward(grad)
            working = max(working, meter.peak - kept + grad.nbytes)
    del out
    seconds = [time.perf_counter() - began]
    if seconds[0] < WARM_SECONDS:  # of a short run the meter and what is done once take too large a share
        seconds.clear()
    while len(seconds) < repeats:
        began = time.perf_counter()
        with context():
            out = forward()
            if out.requires_grad:
                out.backward(torch.ones_like(out))
        seconds.append(time.perf_counter() - began)
        del out
    return kept, working, statistics.median(seconds) if repeats else 0.0


def scale(timed: Sample, fitted: Sequence[Sample], volumes: int, slices: int) -> Cost:
    """From measured sizes to B volumes of D slices.

    Args:
        timed: gives seconds and working memory, which grow with the number of slices.
        fitted: gives what is kept: something for the whole batch (weights in another type) and something for each
            volume. Samples of D slices and several B say how much a volume takes; samples of one B and several D make
            a polynomial of D.
    """
    share = volumes * slices / (timed.volumes * timed.slices)
    first, kept = fitted[0], [sample.kept_bytes for sample in fitted]
    if len(fitted) == 1:
        whole = kept[0] * volumes * slices / (first.volumes * first.slices)
    elif fitted[1].volumes != first.volumes:
        each = (kept[1] - kept[0]) / (fitted[1].volumes - first.volumes)
        whole = kept[0] + each * (volumes - first.volumes)
    else:
        powers = range(len(fitted))
        table = torch.tensor([[float(s.slices) ** p for p in powers] for s in fitted], dtype=torch.float64)
        factors = torch.linalg.solve(table, torch.tensor(kept, dtype=torch.float64)).tolist()
        whole = factors[0] + volumes / first.volumes * sum(factors[p] * float(slices) ** p for p in powers if p)
    return Cost(whole, timed.working_bytes * share, timed.seconds * share)
