"""Decoder-only adapters: an epoch that encodes its images and keeps the features, and the epochs after it."""

from __future__ import annotations

import contextlib
import functools
import tempfile
from pathlib import Path

import torch

from benchmarks.models import DTYPES
from benchmarks.report import Table, figure, times
from benchmarks.settings import Settings
from benchmarks.timing import Contender
from medsam_adapter.adapters.config import MSAAdapterConfig
from medsam_adapter.inference.feature_store import FeatureStore
from medsam_adapter.modeling_msa import MSAModel
from medsam_adapter.training.setup import keep_frozen_encoder_in

IMAGES = 2
"""Of an epoch, trained one by one."""


def measure_kept_features(settings: Settings) -> Table:
    """Seconds of a first and of a later epoch: features, decoder with one click, loss, backward pass, optimizer."""
    title = f"Decoder-only adapters with a feature cache, epochs of {IMAGES} images of {settings.large} px"
    table = Table(title, ["epoch", "dtype", "s", "speed-up"])
    for dtype in DTYPES:
        with tempfile.TemporaryDirectory() as folder:
            epochs = [f"first, {dtype}", f"later, {dtype}"]
            run = functools.cache(functools.partial(_Run, settings, dtype, Path(folder)))
            first = Contender(epochs[0], lambda run=run: lambda: run().epoch(is_first=True))
            later = Contender(epochs[1], lambda run=run: lambda: run().epoch(is_first=False))
            timings = settings.interleave("kept features", [first, later])
        table.keep(timings)
        for name in epochs:
            ratio = times(timings.ratio(epochs[0], name))
            table.rows.append([name.split(",")[0], dtype, figure(timings.median(name)), ratio])
    return table


class _Run:
    def __init__(self, settings: Settings, dtype: str, folder: Path):
        self.settings, self.folder = settings, folder
        self.model: MSAModel = settings.models.ours(settings.large, adapter=MSAAdapterConfig(use_encoder=False))
        if settings.device.type == "cpu":  # as training/setup.py does
            self.model.mask_decoder.config._attn_implementation = "eager"
        self.autocast = contextlib.nullcontext
        if dtype == "bf16":
            keep_frozen_encoder_in(self.model, torch.bfloat16)
            self.autocast = functools.partial(torch.autocast, settings.device.type, torch.bfloat16)
        self.optimizer = torch.optim.AdamW([p for p in self.model.parameters() if p.requires_grad], lr=1e-4)
        self.images = settings.images(IMAGES, 1, size=settings.large).cpu()
        self.store = FeatureStore(folder, self.model)

    def epoch(self, is_first: bool) -> float:
        """Loss of the last step."""
        if is_first:
            for file in self.folder.iterdir():
                file.unlink()
        size, device = self.settings.large, self.settings.device
        labels = torch.zeros(1, 1, size, size, device=device)
        labels[..., size // 4 : 3 * size // 4, size // 4 : 3 * size // 4] = 1
        points = torch.full((1, 1, 1, 2), size / 2, device=device)
        for image in self.images:
            with self.autocast():
                features = self.store.get(image)[0:1].to(device)
                embeddings = self.model.encode(frozen=features)
                loss = self.model(image_embeddings=embeddings, input_points=points, labels=labels).loss
                loss.backward()
                self.optimizer.step()
                self.optimizer.zero_grad()
        return loss.item()
