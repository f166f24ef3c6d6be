"""SAM's own encoder block on the fast path, and the way back to transformers' code.

The fast path (`attention.py`, `linear.py`) stands in for transformers' "sdpa" attention, its default, and gives the
same result up to rounding. `attn_implementation="eager"` keeps transformers' code, which can return attention weights.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator

import torch
from torch import Tensor, nn
from transformers.models.sam.modeling_sam import SamVisionLayer, SamVisionSdpaAttention

from medsam_adapter.adapters.attention import space_attention
from medsam_adapter.adapters.linear import add_residual, feed_forward, is_hooked, linear

_is_enabled = os.environ.get("MSA_PLAIN_ATTENTION", "0") in ("", "0")


@contextlib.contextmanager
def plain_attention() -> Iterator[None]:
    """Let encoders inside compute as transformers' own code does: for comparison, or when in doubt.

    The environment variable MSA_PLAIN_ATTENTION=1 does the same for a whole program. A backward pass with gradient
    checkpointing belongs inside, too.
    """
    global _is_enabled
    before, _is_enabled = _is_enabled, False
    try:
        yield
    finally:
        _is_enabled = before


def has_fast_path(block: SamVisionLayer, hidden_states: Tensor) -> bool:
    """Whether a block's attention can be computed from its weights, without calling the module itself."""
    is_square = hidden_states.shape[1] == hidden_states.shape[2]
    return (
        _is_enabled
        and type(block.attn) is SamVisionSdpaAttention
        and is_square
        and not is_hooked(block.attn)
        and not torch.jit.is_tracing()  # sees torch's operations only, and none of what a kernel writes
    )


class FastVisionLayer(SamVisionLayer):
    """A `SamVisionLayer` with the same parameters and the same result, faster."""

    def forward(self, hidden_states: Tensor) -> Tensor:
        """hidden_states (B, H, W, C) -> the same shape."""
        if not has_fast_path(self, hidden_states):
            return super().forward(hidden_states)
        hidden_states = hidden_states.contiguous()  # the patch embedding leaves the channels first in memory
        qkv = linear(self.attn.qkv, self.layer_norm1(hidden_states))
        attended = linear(self.attn.proj, space_attention(self.attn, qkv, self.window_size))
        middle = add_residual(attended, hidden_states)
        return add_residual(feed_forward(self.mlp, self.layer_norm2(middle)), middle)


def make_fast(model: nn.Module) -> None:
    """Turn the encoder blocks of a `SamModel` into `FastVisionLayer`s, in place; weights and their names stay."""
    for layer in model.vision_encoder.layers:
        if type(layer) is SamVisionLayer:
            layer.__class__ = FastVisionLayer
