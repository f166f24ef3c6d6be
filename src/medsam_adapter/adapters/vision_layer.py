"""The encoder block of the paper: space adapter, depth branch, MLP adapter round a frozen SAM block.

    a = Attn(LN1(x));  a = a + Space(a);  h = x + a + Depth(Attn_depth(LN1(x)));  y = h + MLP(LN2(h)) + s * Mlp(LN2(h))

Differs from the official code in that LN1 comes before the window partition, as in SAM, and in that the depth attention
runs before it, so that a sequence is one position through all slices (https://arxiv.org/abs/2304.12620, figure 2).
Adapters of `compatibility: official` compute as that code does (`official_block.py`).
"""

from __future__ import annotations

import contextlib
import contextvars
from collections.abc import Iterator

import torch
from torch import Tensor, nn
from transformers.models.sam.modeling_sam import SamVisionLayer

from medsam_adapter.adapters.attention import depth_attention, space_attention
from medsam_adapter.adapters.bottleneck import Adapter
from medsam_adapter.adapters.config import MSAAdapterConfig
from medsam_adapter.adapters.fast_layer import has_fast_path
from medsam_adapter.adapters.layer import MSALayer
from medsam_adapter.adapters.linear import add_residual, feed_forward, linear
from medsam_adapter.adapters.official_block import depth_branch, knows_positions, padded_projection, space_branch
from medsam_adapter.errors import CheckpointError

_chunk: contextvars.ContextVar[tuple[int, Tensor | None]] = contextvars.ContextVar("chunk", default=(1, None))


@contextlib.contextmanager
def volume_chunk(num_slices: int, slice_mask: Tensor | None = None) -> Iterator[None]:
    """Tell the encoder blocks called inside that their batch is volumes of `num_slices` slices.

    SAM's encoder passes only hidden states to its blocks; this is the side door. Without it each image stands alone (D
    = 1).

    Args:
        slice_mask: (B, D) bool, False for slices that only fill up a chunk.
    """
    token = _chunk.set((num_slices, slice_mask))
    try:
        yield
    finally:
        _chunk.reset(token)


class DepthBias(nn.Module):
    """A learned score for the distance of two slices, (2 n - 1, heads), zero at first; farther ones share the last."""

    def __init__(self, num_slices: int, heads: int):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(2 * num_slices - 1, heads))

    def forward(self, num_slices: int) -> Tensor:
        """(heads, D, D)."""
        reach = self.weight.shape[0] // 2
        z = torch.arange(num_slices, device=self.weight.device)
        return self.weight[(z[:, None] - z[None]).clamp(-reach, reach) + reach].permute(2, 0, 1)


class MSAVisionLayer(SamVisionLayer, MSALayer):
    """A `SamVisionLayer` with adapters; a subclass, so that output capture and gradient checkpointing keep working."""

    adapter_layer_names = ("msa_adapter_space", "msa_adapter_depth", "msa_adapter_depth_bias", "msa_adapter_mlp")

    other_param_names = (*MSALayer.other_param_names, "modes")

    def __init__(self, base_layer: SamVisionLayer, adapter_name: str, config: MSAAdapterConfig):
        nn.Module.__init__(self)  # not SamVisionLayer's, which would build the block's weights again
        self.modes: dict[str, tuple[str | None, str]] = {}  # of each adapter: compatibility, relative positions
        self._start(base_layer, adapter_name, config)

    def update_layer(self, adapter_name: str, config: MSAAdapterConfig) -> None:
        self.modes[adapter_name] = config.compatibility, config.relative_positions
        super().update_layer(adapter_name, config)

    def make_adapters(self, config: MSAAdapterConfig) -> dict[str, nn.Module]:
        block = self.get_base_layer()
        width = block.layer_norm1.normalized_shape[0]
        names = ["msa_adapter_space", "msa_adapter_mlp"] + ["msa_adapter_depth"] * config.use_depth
        made: dict[str, nn.Module] = {
            name: Adapter(width, config.bottleneck_ratio, config.activation) for name in names
        }
        if config.use_depth and config.depth_bias:
            made["msa_adapter_depth_bias"] = DepthBias(config.num_slices, block.attn.num_attention_heads)
        return made

    def __call__(self, hidden_states: Tensor, **kwargs):
        # Read here and not in forward: gradient checkpointing runs forward again after the context has gone.
        num_slices, slice_mask = _chunk.get()
        return super().__call__(hidden_states, num_slices=num_slices, slice_mask=slice_mask, **kwargs)

    def forward(self, hidden_states: Tensor, num_slices: int = 1, slice_mask: Tensor | None = None) -> Tensor:
        """hidden_states (B * D, H, W, C) -> the same shape."""
        block = self.base_layer
        if self.is_plain:
            return block.forward(hidden_states)  # .forward: SAM's output capture must not see the block twice
        hidden_states = hidden_states.contiguous()  # the patch embedding leaves the channels first in memory
        compatibility, positions = self._mode()
        if compatibility == "official":
            middle = self._official_attention(hidden_states, num_slices, slice_mask, positions)
        else:
            middle = self._attention(hidden_states, num_slices, slice_mask)
        normed = block.layer_norm2(middle)
        total = add_residual(feed_forward(block.mlp, normed), middle)
        for out, scale in self.adapted("msa_adapter_mlp", normed):
            total.add_(out, alpha=scale)
        return total

    def _mode(self) -> tuple[str | None, str]:
        """Compatibility and relative positions of the active adapters."""
        modes = {self.modes[name] for name in self.active_adapters if name in self.modes}
        if len(modes) > 1:
            raise CheckpointError(
                "the active adapters were trained with different encoder blocks",
                expected="the same compatibility and relative_positions",
                found="; ".join(f"{n}: {self.modes[n][0]}, {self.modes[n][1]}" for n in sorted(self.modes)),
                hint="activate one at a time: set_adapter",
            )
        return modes.pop()

    def _attention(self, hidden_states: Tensor, num_slices: int, slice_mask: Tensor | None) -> Tensor:
        """The block up to its first residual sum, as the paper has it."""
        block = self.base_layer
        normed = block.layer_norm1(hidden_states)
        qkv = None
        if has_fast_path(block, hidden_states):
            qkv = linear(block.attn.qkv, normed)  # once for both branches, which share it
            attended = linear(block.attn.proj, space_attention(block.attn, qkv, block.window_size))
        else:
            attended = self._plain_space_attention(normed)
        middle = hidden_states + attended
        for out, _ in self.adapted("msa_adapter_space", attended):
            middle.add_(out)
        for out in self._depth(normed, qkv, num_slices, slice_mask):
            middle.add_(out)
        return middle

    def _official_attention(
        self, hidden_states: Tensor, num_slices: int, slice_mask: Tensor | None, relative_positions: str
    ) -> Tensor:
        """The block up to its first residual sum, as the authors' public code has it."""
        block = self.base_layer
        height, width = hidden_states.shape[1:3]
        positions = knows_positions(block, relative_positions)
        normed, qkv = padded_projection(block, hidden_states)
        attended = space_branch(block, normed, qkv, positions)[:, :height, :width]
        middle = hidden_states + attended
        for out, _ in self.adapted("msa_adapter_space", attended):
            middle = middle + out
        if any(name in self.msa_adapter_depth for name in self.active_adapters):
            mixed = depth_branch(block, qkv, num_slices, slice_mask, positions)[:, :height, :width]
            for out, _ in self.adapted("msa_adapter_depth", mixed):
                middle = middle + out
        return middle

    def _plain_space_attention(self, normed: Tensor) -> Tensor:
        block = self.base_layer
        if not block.window_size:
            return block.attn(hidden_states=normed)[0]
        height, width = normed.shape[1:3]
        windows, padded = block.window_partition(normed, block.window_size)
        return block.window_unpartition(
            block.attn(hidden_states=windows)[0], block.window_size, padded, (height, width)
        )

    def _depth(
        self, normed: Tensor, qkv: Tensor | None, num_slices: int, slice_mask: Tensor | None
    ) -> Iterator[Tensor]:
        """The depth branch of each active adapter; `qkv` is the projection of `normed` if the space branch has it."""
        attention = self.base_layer.attn
        shared = None  # adapters without a bias of their own share one attention
        for name in self.active_adapters:
            if name not in self.msa_adapter_depth:
                continue
            qkv = linear(attention.qkv, normed) if qkv is None else qkv
            biases = self.msa_adapter_depth_bias
            if name in biases:
                mixed = depth_attention(attention, qkv, num_slices, slice_mask, biases[name](num_slices))
            else:
                if shared is None:
                    shared = depth_attention(attention, qkv, num_slices, slice_mask, None)
                mixed = shared
            yield self.msa_adapter_depth[name](linear(attention.proj, mixed))
