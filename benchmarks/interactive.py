"""What a person waits for: a volume to be encoded, a picture to be encoded, a further click."""

from __future__ import annotations

import contextlib
import functools

import numpy as np
import torch

from benchmarks.models import DTYPES
from benchmarks.report import Table, figure, times
from benchmarks.settings import Settings
from benchmarks.timing import Call, Contender
from medsam_adapter.adapters.config import MSAAdapterConfig
from medsam_adapter.adapters.fast_layer import plain_attention
from medsam_adapter.inference.predictor import MSAPredictor
from medsam_adapter.inference.slices import encode_volume


def measure_volume(settings: Settings) -> Table:
    """Slices a second of a volume through an encoder with 3-D adapters, bf16."""
    adapter = MSAAdapterConfig(use_depth=True, num_slices=settings.chunk)

    def contender(name: str, is_plain: bool) -> Contender:
        def make() -> Call:
            model = settings.models.ours(settings.small, torch.bfloat16, adapter)
            slices = settings.images(settings.volume, size=settings.small)

            def call() -> None:
                with plain_attention() if is_plain else contextlib.nullcontext():
                    encode_volume(model, slices)

            return call

        return Contender(name, make)

    plain, fast = contender("plain attention", True), contender("fast", False)
    timings = settings.interleave("volume", [plain, fast])
    title = f"Volume, {settings.volume} slices of {settings.small} px, 3-D adapters, bf16"
    table = Table(title, ["encoder", "s", "slices/s", "speed-up"])
    table.keep(timings)
    for name in (plain.name, fast.name):
        took = timings.median(name)
        table.rows.append([name, figure(took), f"{settings.volume / took:.1f}", times(timings.ratio(plain.name, name))])
    return table


def measure_click(settings: Settings) -> Table:
    """Encoding a picture, and a further click on it, from the file's array to the mask."""
    size = settings.large
    picture = np.random.default_rng(0).integers(0, 256, (size, size), dtype=np.uint8)

    @functools.cache
    def predictor(dtype: str) -> MSAPredictor:
        made = MSAPredictor(settings.models.ours(size, DTYPES[dtype], MSAAdapterConfig()), device=settings.device)
        made.set_image(picture)
        return made

    def encoding(dtype: str) -> Call:
        made = predictor(dtype)
        return lambda: made.set_image(picture)

    def click(dtype: str) -> Call:
        made = predictor(dtype)
        return lambda: made.predict(points=[(size // 3, size // 2)])

    table = Table(f"A further click, {size} px, 2-D adapters", ["dtype", "encoding s", "click s", "share"])
    for dtype in DTYPES:
        names = f"encoding, {dtype}", f"click, {dtype}"
        makers = (functools.partial(maker, dtype) for maker in (encoding, click))
        timings = settings.interleave("click", [Contender(*pair) for pair in zip(names, makers, strict=True)])
        table.keep(timings)
        share = 1 / timings.ratio(*names)
        table.rows.append([dtype, *(figure(timings.median(name)) for name in names), f"{share:.1%}"])
    return table
