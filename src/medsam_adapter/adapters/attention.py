"""Depth attention: slices attend to each other at each position, with the frozen projections of the space branch.

Shapes: B volumes, D slices, (H, W) tokens, C width, h heads.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn


def depth_attention(
    attention: nn.Module, hidden_states: Tensor, num_slices: int, slice_mask: Tensor | None, bias: Tensor | None
) -> Tensor:
    """Attention over the slices of a chunk, one sequence for each of the H x W positions.

    It runs over the whole grid before any window partition and without the 2-D relative positions (paper page,
    SD-Trans); positions never see each other here.

    Args:
        attention: the block's frozen `SamVisionAttention`; its qkv and proj are shared.
        hidden_states: (B * D, H, W, C) after LayerNorm 1.
        num_slices: D.
        slice_mask: (B, D) bool, False for slices that only fill up the chunk; None if all are real.
        bias: (h, D, D) added to the scores, or None.

    Returns:
        (B * D, H, W, C).
    """
    slices, height, width, channels = hidden_states.shape
    if slices % num_slices:
        raise ValueError(f"{slices} slices do not divide into chunks of {num_slices}")
    heads, volumes = attention.num_attention_heads, slices // num_slices
    qkv = attention.qkv(hidden_states).view(volumes, num_slices, height * width, 3, heads, channels // heads)
    query, key, value = qkv.permute(3, 0, 2, 4, 1, 5).flatten(1, 2).unbind(0)  # each (B * HW, h, D, c)
    scores_mask = None
    if bias is not None:
        scores_mask = bias[None].to(query.dtype)
    if slice_mask is not None:
        allowed = slice_mask.repeat_interleave(height * width, 0)[:, None, None, :]  # keys of real slices
        hidden = query.new_zeros(allowed.shape).masked_fill(~allowed, float("-inf"))
        scores_mask = hidden if scores_mask is None else scores_mask + hidden
    if scores_mask is not None:
        scores_mask = scores_mask.expand(query.shape[0], heads, num_slices, num_slices)
    mixed = F.scaled_dot_product_attention(query, key, value, attn_mask=scores_mask)
    mixed = mixed.view(volumes, height * width, heads, num_slices, channels // heads).permute(0, 3, 1, 2, 4)
    return attention.proj(mixed.reshape(slices, height, width, channels))
