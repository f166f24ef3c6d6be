"""What is measured, how large and how often: from the command line to every section."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from benchmarks.models import Models
from benchmarks.timing import Contender, Timings, interleave


@dataclass(frozen=True)
class Settings:
    """Sizes of one run of the benchmark.

    Attributes:
        model: architecture; see `benchmarks.models`.
        small, large: sides of images in pixels.
        batch: images of a training step, and of the larger batch of the encoder.
        chunk: slices that the depth branch lets see each other.
        volume: slices of a volume.
    """

    model: str
    device: torch.device
    repeats: int
    warmup: int
    small: int
    large: int
    batch: int
    chunk: int
    volume: int
    is_quick: bool
    models: Models = field(repr=False)

    @classmethod
    def choose(cls, model: str, device: torch.device, repeats: int | None, is_quick: bool) -> Settings:
        """The sizes of the issue, or small ones that only show that everything runs."""
        small, large = (64, 64) if model == "tiny" else (256, 512 if is_quick else 1024)
        return cls(
            model=model,
            device=device,
            repeats=repeats or (2 if is_quick else 7),
            warmup=3 if device.type == "cuda" else 1,  # kernels are chosen and memory is taken in the first calls
            small=small,
            large=large,
            batch=2 if is_quick else 8,
            chunk=8,
            volume=16 if is_quick else 64,
            is_quick=is_quick,
            models=Models(model, device),
        )

    def images(self, *lead: int, size: int, dtype: torch.dtype = torch.float32) -> Tensor:
        """(*lead, 3, size, size) of noise, the same at each call."""
        generator = torch.Generator().manual_seed(1)
        return torch.randn(*lead, 3, size, size, generator=generator).to(self.device, dtype)

    def interleave(self, title: str, contenders: list[Contender]) -> Timings:
        """`timing.interleave` with these repeats, on this device."""
        return interleave(title, contenders, self.repeats, self.warmup, self.device)
