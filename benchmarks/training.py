"""One training step: encoder, decoder with a click for one object, loss, backward pass, optimizer."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass

import torch
from torch import Tensor

from benchmarks.memory import added_memories
from benchmarks.report import Table, figure, megabytes, times
from benchmarks.settings import Settings
from benchmarks.timing import Call, Contender
from medsam_adapter.adapters.config import MSAAdapterConfig
from medsam_adapter.adapters.fast_layer import plain_attention
from medsam_adapter.modeling_msa import MSAModel
from medsam_adapter.training.setup import keep_frozen_encoder_in


@dataclass(frozen=True)
class Step:
    """A way to train the same adapters; trained weights are fp32 in all of them.

    Attributes:
        is_plain: transformers' unmodified attention.
        has_bf16_base: the encoder's frozen weights lie in bf16, not in fp32.
        last_blocks: only so many encoder blocks get adapters, counted from the end; None for all.
        is_fp32: everything in fp32, without autocast.
    """

    name: str
    is_plain: bool = False
    has_bf16_base: bool = False
    is_checkpointed: bool = False
    last_blocks: int | None = None
    is_fp32: bool = False


STEPS = (
    Step("plain attention", is_plain=True),
    Step("plain attention, frozen bf16", is_plain=True, has_bf16_base=True),
    Step("fast"),
    Step("fast, frozen bf16", has_bf16_base=True),
    Step("fast, frozen bf16, checkpointing", has_bf16_base=True, is_checkpointed=True),
    Step("fast, frozen bf16, last 4 blocks", has_bf16_base=True, last_blocks=4),
    Step("fast, fp32", is_fp32=True),
)


def training_contenders(settings: Settings) -> list[Contender]:
    """The rows of the table."""
    return [_training_contender(settings, step) for step in STEPS]


def _training_contender(settings: Settings, step: Step) -> Contender:
    def make() -> Call:
        model = _model(settings, step)
        optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-4)
        batch = _batch(settings)

        def call() -> Tensor:
            attention = plain_attention() if step.is_plain else contextlib.nullcontext()
            # As in training/loop.py the backward pass lies inside autocast.
            with attention, torch.autocast(settings.device.type, torch.bfloat16, enabled=not step.is_fp32):
                loss = model(**batch).loss
                loss.backward()
                optimizer.step()
                optimizer.zero_grad()
            return loss.detach()

        return call

    return Contender(step.name, make)


def _model(settings: Settings, step: Step) -> MSAModel:
    layers = settings.models.sam(settings.small).config.vision_config.num_hidden_layers
    adapted = None if step.last_blocks is None else list(range(max(0, layers - step.last_blocks), layers))
    model = settings.models.ours(settings.small, adapter=MSAAdapterConfig(encoder_layers=adapted))
    if step.has_bf16_base:
        keep_frozen_encoder_in(model, torch.bfloat16)
    if settings.device.type == "cpu":  # as training/setup.py does, for all contenders
        model.mask_decoder.config._attn_implementation = "eager"
    if step.is_checkpointed:
        model.activation_checkpointing_enable()
    return model.train()


def _batch(settings: Settings) -> dict[str, Tensor]:
    """Noise with a square in the middle as the target, one click in it."""
    size, images = settings.small, settings.batch
    labels = torch.zeros(images, 1, size, size, device=settings.device)
    labels[..., size // 4 : 3 * size // 4, size // 4 : 3 * size // 4] = 1
    return {
        "pixel_values": settings.images(images, size=size),
        "input_points": torch.full((images, 1, 1, 2), size / 2, device=settings.device),
        "labels": labels,
    }


def measure_training(settings: Settings) -> Table:
    """Table of the section; the faster of the two plain steps is the baseline, for memory too."""
    contenders = training_contenders(settings)
    timings = settings.interleave("training", contenders)
    sizes = added_memories(settings, "training", contenders)
    baseline = min((step.name for step in STEPS if step.is_plain), key=timings.median)
    title = f"Training step, {settings.small} px, batch {settings.batch}, bf16 autocast but for the last row"
    table = Table(title, ["step", "s", "speed-up", "MB added", "of the baseline's"])
    table.keep(timings)
    for name, size in sizes.items():
        ratio, share = times(timings.ratio(baseline, name)), f"{size / sizes[baseline]:.2f}"
        table.rows.append([name, figure(timings.median(name)), ratio, megabytes(size), share])
    losses = [float(timings.results[name]) for name in sizes]
    table.notes.append(f"Baseline: {baseline}. Loss of the last step: {min(losses):.4f} to {max(losses):.4f}.")
    return table
