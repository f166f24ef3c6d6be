"""The image encoder: ours against transformers', what adapters add to it, and torch.compile."""

from __future__ import annotations

import contextlib
import os
import shutil
from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import SamVisionConfig

from benchmarks.memory import added_memories
from benchmarks.models import DTYPES
from benchmarks.report import Table, figure, megabytes, times
from benchmarks.settings import Settings
from benchmarks.timing import Call, Contender, Timings
from medsam_adapter.adapters.config import MSAAdapterConfig
from medsam_adapter.native.library import without_kernel

EAGER, SDPA = "transformers eager", "transformers sdpa"
OURS, ADAPTED = "MSAModel, no adapters", "MSAModel, 2-D adapters"
TILES = "2-D adapters, without the kernel"
"""As on a machine for which the attention kernel is not built."""


@dataclass(frozen=True)
class EncoderContender(Contender):
    """One encoder with one dtype and batch size."""

    encoder: str
    dtype: str
    batch: int


def encoder_contenders(settings: Settings, size: int, batches: list[int]) -> list[EncoderContender]:
    """The encoders, two dtypes, some batch sizes; images of `size` px."""
    ours = (OURS, ADAPTED, TILES) if settings.device.type == "cpu" else (OURS, ADAPTED)
    return [
        _encoder_contender(settings, encoder, dtype, batch, size)
        for batch in batches
        for dtype in DTYPES
        for encoder in (EAGER, SDPA, *ours)
    ]


def _encoder_contender(settings: Settings, encoder: str, dtype: str, batch: int, size: int) -> EncoderContender:
    def make() -> Call:
        models, kind = settings.models, DTYPES[dtype]
        if encoder in (EAGER, SDPA):
            model = models.sam(size, kind, encoder.split()[-1])
        else:
            model = models.ours(size, kind, None if encoder == OURS else MSAAdapterConfig())
        pixel_values = settings.images(batch, size=size, dtype=kind)

        def call() -> Tensor:
            with without_kernel() if encoder == TILES else contextlib.nullcontext():
                return model.get_image_embeddings(pixel_values)  # without gradients, in both classes

        return call

    return EncoderContender(f"{encoder}, {dtype}, batch {batch}", make, encoder, dtype, batch)


def measure_encoder(
    settings: Settings, section: str, size: int, batches: list[int], products: dict[str, float]
) -> Table:
    """Table of an encoder section; only contenders of one dtype and batch size run against each other.

    Args:
        products: GFLOP/s of a matrix product in each dtype.
    """
    has_memory = settings.device.type == "cuda" or (size == settings.large and not settings.is_quick)
    headers = ["encoder", "dtype", "batch", "s", "speed-up", "GFLOP/s", "of a product"]
    table = Table(f"Encoder, {size} px", headers + ["MB added"] * has_memory)
    contenders = encoder_contenders(settings, size, batches)
    config = settings.models.sam(size).config.vision_config
    for batch in batches:
        outputs: dict[str, Tensor] = {}
        for dtype in DTYPES:
            group = [c for c in contenders if (c.batch, c.dtype) == (batch, dtype)]
            timings = settings.interleave(section, group)
            table.keep(timings)
            sizes = added_memories(settings, section, group) if has_memory else {}
            for contender in group:
                row = _encoder_row(contender, group, timings, encoder_flops(config, size, batch), products[dtype])
                if has_memory:
                    row.append(megabytes(sizes[contender.name]))
                table.rows.append(row)
                outputs[f"{contender.encoder}, {dtype}"] = timings.results[contender.name]
        if batch == batches[0]:
            table.notes.append(_errors(outputs))
    table.notes.append("Speed-up over transformers sdpa of the same dtype; operations of real tokens, no adapters.")
    return table


def _encoder_row(
    contender: EncoderContender, group: list[EncoderContender], timings: Timings, flops: int, product: float
) -> list[str]:
    took = timings.median(contender.name)
    baseline = next(c.name for c in group if c.encoder == SDPA)
    speed = 1e-9 * flops / took
    return [
        contender.encoder,
        contender.dtype,
        str(contender.batch),
        figure(took),
        times(timings.ratio(baseline, contender.name)),
        figure(speed),
        f"{speed / product:.0%}",
    ]


def _errors(outputs: dict[str, Tensor]) -> str:
    """Largest difference to transformers sdpa fp32 as a share of its largest value."""
    right = outputs[f"{SDPA}, fp32"]
    errors = []
    for name in (f"{OURS}, fp32", f"{OURS}, bf16", f"{SDPA}, bf16"):
        error = (outputs[name].float() - right).abs().max() / right.abs().max()
        errors.append(f"{name} {error:.1e}")
    return f"Largest error relative to {SDPA}, fp32: {'; '.join(errors)}."


def encoder_flops(config: SamVisionConfig, size: int, batch: int) -> int:
    """Floating-point operations of SAM's encoder for real tokens only: no padding, no relative positions, no norms.

    A token attends to all places of its window, or to the whole grid in global blocks.
    """
    width, grid = config.hidden_size, size // config.patch_size
    tokens, windows = grid * grid, config.num_hidden_layers - len(config.global_attn_indexes)
    products = config.num_hidden_layers * (4 * width**2 + 2 * width * config.mlp_dim)  # 12 C^2 a block
    keys = windows * config.window_size**2 + len(config.global_attn_indexes) * tokens
    patches = config.num_channels * config.patch_size**2 * width
    neck = config.output_channels * width + 9 * config.output_channels**2
    return 2 * batch * tokens * (products + 2 * width * keys + patches + neck)


def measure_adapters(settings: Settings) -> Table:
    """What adapters add to our own encoder, on one chunk of slices."""
    adapters = {
        "2-D adapters, r = 1/16": MSAAdapterConfig(),
        "2-D adapters, r = 1/4": MSAAdapterConfig(bottleneck_ratio=0.25),
        "depth branch too, r = 1/16": MSAAdapterConfig(use_depth=True, num_slices=settings.chunk),
    }
    title = f"Adapters' share, {settings.small} px, {settings.chunk} slices"
    table = Table(title, ["encoder", "dtype", "s", "overhead"])
    for dtype in DTYPES:
        own = _own_encoder(settings, f"no adapters, {dtype}", dtype, None)
        contenders = [own, *(_own_encoder(settings, f"{name}, {dtype}", dtype, a) for name, a in adapters.items())]
        timings = settings.interleave("adapters", contenders)
        table.keep(timings)
        for contender, name in zip(contenders, ["no adapters", *adapters], strict=True):
            overhead = "" if contender is own else f"{1 / timings.ratio(own.name, contender.name) - 1:+.1%}"
            table.rows.append([name, dtype, figure(timings.median(contender.name)), overhead])
    return table


def _own_encoder(settings: Settings, name: str, dtype: str, adapter: MSAAdapterConfig | None) -> Contender:
    def make() -> Call:
        model = settings.models.ours(settings.small, DTYPES[dtype], adapter)
        pixel_values = settings.images(1, settings.chunk, size=settings.small, dtype=DTYPES[dtype])
        return lambda: model.get_image_embeddings(pixel_values)

    return Contender(name, make)


def measure_compile(settings: Settings) -> Table:
    """Our own encoder through torch.compile; the minutes of compiling fall into the rounds that do not count."""
    table = Table(f"torch.compile, {settings.small} px", ["encoder", "dtype", "s", "speed-up"])
    if not any(shutil.which(name) for name in (os.environ.get("CXX", ""), "g++", "clang++", "cl")):
        table.notes.append("Skipped: torch.compile needs a C++ compiler, and none was found (g++, clang++, $CXX).")
        return table
    for dtype in DTYPES:
        own = _bare_encoder(settings, f"as it is, {dtype}", dtype, False)
        compiled = _bare_encoder(settings, f"compiled, {dtype}", dtype, True)
        timings = settings.interleave("compile", [own, compiled])
        table.keep(timings)
        for contender in (own, compiled):
            ratio = times(timings.ratio(own.name, contender.name))
            table.rows.append([contender.name.split(",")[0], dtype, figure(timings.median(contender.name)), ratio])
    return table


def _bare_encoder(settings: Settings, name: str, dtype: str, is_compiled: bool) -> Contender:
    def make() -> Call:
        encoder = settings.models.ours(settings.small, DTYPES[dtype]).vision_encoder
        if is_compiled:
            encoder = torch.compile(encoder)
        pixel_values = settings.images(1, size=settings.small, dtype=DTYPES[dtype])

        @torch.no_grad()
        def call() -> Tensor:
            return encoder(pixel_values)[0]

        return call

    return Contender(name, make)
