"""The parts of a training step, measured one by one: stem, one block of each kind, neck, one call of the decoder.

Blocks of one kind (windowed or global, trained or frozen, with a graph behind them or not) cost the same, so one of
them is built and run, on one slice where slices are large; the first trained block, which keeps less than the others,
counts as one of them. At no time is the whole model in memory.

Shapes: B volumes (or pictures), D slices each, (g, g) tokens of width C, E channels of an embedding, n objects.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from medsam_adapter.adapters.attention import fused_attention
from medsam_adapter.adapters.config import MSAAdapterConfig
from medsam_adapter.adapters.vision_layer import volume_chunk
from medsam_adapter.frozen_features import has_frozen_embeddings, num_frozen_blocks
from medsam_adapter.losses import bce_loss, dice_loss
from medsam_adapter.modeling_msa import MSAModel
from medsam_adapter.prompts.decode import decode_masks
from medsam_adapter.training.dry_run_meter import REPEATS, Cost, Sample, materialise, run_once, scale

FULL_CHUNK_TOKENS = 4096
"""Chunks of up to so many tokens are run as they are; of larger ones one slice is, and a few for their memory."""
TIMED_OBJECTS = 4
"""Objects decoded in the calls that are timed, at most."""


@dataclass
class StepCost:
    """What one training step takes, in parts.

    Attributes:
        encoder, decoder: of the whole batch. `decoder.seconds` is that of the mean step, the bytes are those of the
            largest one.
        encoder_on_gpu: its bytes with the attention that accelerators take, which keeps queries, keys and values with
            their positions; no seconds.
        measured: the parts that were run, in words.
    """

    encoder: Cost
    encoder_on_gpu: Cost
    decoder: Cost
    measured: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Decodes:
    """Objects that are decoded in one step: in the largest step, in the mean step, and in the largest single call."""

    largest: int
    mean: float
    in_one_call: int


class StepMeter:
    """Measures the parts of a step of a planned model.

    Args:
        model: on the meta device.
        batch: (B, D) of a step.
        precision: no, bf16 or fp16; fp16 is measured in bf16, which takes as many bytes and which CPUs have.
        skip_frozen: the frozen part of the encoder does not run: its features are kept on disk.
        say: told what is being measured.
    """

    def __init__(
        self, model: MSAModel, batch: tuple[int, int], precision: str, skip_frozen: bool, say: Callable[[str], None]
    ):
        self.model, self.batch, self.say = model, batch, say
        self.autocast = functools.partial(torch.autocast, "cpu", torch.bfloat16, enabled=precision != "no")
        self.skip = num_frozen_blocks(model) if skip_frozen else 0
        vision = model.config.vision_config
        self.grid, self.image_size = vision.image_size // vision.patch_size, vision.image_size
        self.width, self.channels = vision.hidden_size, vision.output_channels
        layers, model.vision_encoder.layers = model.vision_encoder.layers, nn.ModuleList()
        try:
            self.shell: MSAModel = materialise(model)  # all but the blocks
        finally:
            model.vision_encoder.layers = layers
        self.has_trained_encoder = any(p.requires_grad for p in model.vision_encoder.parameters())

    def measure(self, decodes: Decodes) -> StepCost:
        """All parts."""
        encoder, on_gpu, measured = Cost(), Cost(), []
        for name, count, *costs in self._encoder_parts():
            for total, cost in zip((encoder, on_gpu), costs, strict=True):
                total.kept_bytes += count * cost.kept_bytes
                total.working_bytes = max(total.working_bytes, cost.working_bytes)
                total.seconds += count * cost.seconds
            measured.append(f"{name} x {count}")
        self.say("the decoder")
        return StepCost(encoder, on_gpu, self._decoder(decodes), [*measured, "decoder"])

    # -- encoder -------------------------------------------------------------------------------------------------------

    def _encoder_parts(self):
        """(name, number of such parts, cost of one, the same on a GPU)."""
        encoder, layers = self.shell.vision_encoder, self.model.vision_encoder.layers
        is_stored = self.skip == len(layers) and has_frozen_embeddings(self.model)
        if not self.skip:
            self.say("the encoder's first layer")
            yield "first layer", 1, *self._part(self._stem, (3, self.image_size, self.image_size), False)
        kinds: dict[tuple[bool, bool, bool], list[int]] = {}
        has_graph = any(
            p.requires_grad for p in (encoder.pos_embed, *encoder.patch_embed.parameters()) if p is not None
        )
        for number in range(self.skip, len(layers)):
            is_trained = any(p.requires_grad for p in layers[number].parameters())
            has_graph |= is_trained
            block = getattr(layers[number], "base_layer", layers[number])
            kinds.setdefault((block.window_size == 0, is_trained, has_graph), []).append(number)
        for (is_global, is_trained, has_graph), numbers in kinds.items():
            name = (
                f"{'trained' if is_trained else 'frozen'} block with {'global' if is_global else 'windowed'} attention"
            )
            self.say(f"a {name} ({len(numbers)} of them)")
            block = materialise(layers[numbers[0]])
            tokens = (self.grid, self.grid, self.width)
            yield name, len(numbers), *self._part(block, tokens, has_graph, self._depth_of(is_trained), True)
        if not is_stored:
            self.say("the encoder's neck")
            tokens = (self.grid, self.grid, self.width)
            yield "neck", 1, *self._part(encoder.neck, tokens, self.has_trained_encoder)

    def _stem(self, pixels: Tensor) -> Tensor:
        encoder = self.shell.vision_encoder
        tokens = encoder.patch_embed(pixels.to(encoder.patch_embed.projection.weight.dtype))
        return tokens if encoder.pos_embed is None else tokens + encoder.pos_embed

    def _depth_of(self, is_trained: bool) -> str:
        """The depth branch of a block: none, plain, or bias, whose bytes grow with the square of D."""
        configs = self.model.peft_config.values() if self.model._hf_peft_config_loaded else ()
        deep = [c for c in configs if isinstance(c, MSAAdapterConfig) and c.use_depth and is_trained]
        return "none" if not deep else "bias" if any(c.depth_bias for c in deep) else "plain"

    def _sizes(self, depth: str) -> tuple[tuple[int, int], list[tuple[int, int]]]:
        """(B, D) that is timed, and those whose bytes are fitted.

        Of several volumes the depth branch copies what of one it only views, and of a single slice likewise.
        """
        volumes, slices = self.batch
        some = min(volumes, 2)
        if slices == 1 or slices * self.grid**2 <= FULL_CHUNK_TOKENS:
            return (1, slices), [(n, slices) for n in range(some, min(volumes, 3) + 1)]
        if depth == "none":
            return (1, 1), [(1, 1), (1, 2)]
        first = 1 if some == 1 else 2
        return (1, 1), [(some, d) for d in range(first, min(slices, first + 1 + (depth == "bias")) + 1)]

    def _sample(self, size: tuple[int, int], call: Callable[[], Tensor], repeats: int) -> Sample:
        kept_bytes, working_bytes, seconds = run_once(call, self.autocast, repeats)
        return Sample(*size, kept_bytes, working_bytes, seconds)

    def _part(
        self, part: Callable, shape: tuple[int, ...], has_graph: bool, depth: str = "none", has_attention: bool = False
    ) -> tuple[Cost, Cost]:
        """Cost of a part for the whole batch, and its bytes on a GPU.

        Args:
            shape: of one slice of its input.
            has_graph: gradients go further down than this part.
        """
        size, sizes = self._sizes(depth)
        call = self._call_of(part, shape, has_graph, *size)
        timed = self._sample(size, call, REPEATS)
        fitted = [
            timed if some == size else self._sample(some, self._call_of(part, shape, has_graph, *some), 0)
            for some in sizes
        ]
        here = scale(timed, fitted, *self.batch)
        if not has_attention:
            return here, Cost(here.kept_bytes, here.working_bytes)
        with fused_attention():
            fused = self._sample(size, call, 1)
        more = scale(fused, [fused], *self.batch).kept_bytes - scale(timed, [timed], *self.batch).kept_bytes
        return here, Cost(here.kept_bytes + more, scale(fused, [fused], *self.batch).working_bytes)

    def _call_of(self, part: Callable, shape: tuple[int, ...], has_graph: bool, volumes: int, slices: int) -> Callable:
        """A forward pass of a part on B volumes of D slices of noise."""
        images = torch.randn(volumes * slices, *shape).to(self._dtype_of(part)).requires_grad_(has_graph)
        return functools.partial(self._call, part, images, slices, torch.ones(volumes, slices, dtype=torch.bool))

    @staticmethod
    def _call(part: Callable, images: Tensor, num_slices: int, mask: Tensor) -> Tensor:
        with volume_chunk(num_slices, mask):
            return part(images)

    @staticmethod
    def _dtype_of(part: Callable) -> torch.dtype:
        """What comes in: the type of the frozen weights, which under autocast need not be that of the products."""
        weights = part.parameters() if isinstance(part, nn.Module) else ()
        return next((p.dtype for p in weights if not p.requires_grad), torch.float32)

    # -- decoder -------------------------------------------------------------------------------------------------------

    def _decoder(self, decodes: Decodes) -> Cost:
        some = max(1, min(TIMED_OBJECTS, decodes.in_one_call))
        timed, twice = self._decode(some, REPEATS), self._decode(2 * some, 0)
        cost = scale(timed, [timed, twice], decodes.largest, 1)
        cost.seconds = scale(timed, [timed], 1, 1).seconds * decodes.mean
        cost.working_bytes = scale(timed, [timed], decodes.in_one_call, 1).working_bytes
        return cost

    def _decode(self, objects: int, repeats: int) -> Sample:
        images = self.batch[0] * self.batch[1]
        embeddings = torch.randn(images, self.channels, self.grid, self.grid)
        embeddings.requires_grad_(self.has_trained_encoder)
        which = torch.arange(objects) % images
        points = torch.full((objects, 1, 1, 2), self.image_size / 2)
        targets = torch.rand(objects, 4 * self.grid, 4 * self.grid)

        def forward() -> Tensor:
            labels = torch.ones(objects, 1, 1, dtype=torch.long)
            logits, _ = decode_masks(self.shell, embeddings[which], input_points=points, input_labels=labels)
            logits = logits[:, 0, 0].float()
            return dice_loss(logits, targets) + bce_loss(logits, targets)

        return Sample(objects, 1, *run_once(forward, self.autocast, repeats))
