"""SAM's windowed attention with relative positions, exact and without the work that its usual form wastes.

What is not done here, compared with transformers' `SamVisionAttention` (the result is the same):

- Window padding is not projected and its queries are not computed. SAM pads after LayerNorm 1 with zeros, so a padded
  key or value is the bias of the qkv projection, a constant.
- Relative positions make no bias of the size of the attention matrix. Where windows are small they are extra features:
  q' = [scale q, q Rh, q Rw], k' = [k, onehot(y), onehot(x)], so that q' k' is the whole score.
- The depth branch has no projection of its own: q, k and v are those of the space branch, regrouped by position.

CPUs take the kernel of `native/` where it serves, else `tiled_attention.py`; accelerators and torch.compile take
`scaled_dot_product_attention`.

Shapes: B images, (H, W) tokens, C width, h heads of c channels, n side of a window (of the grid, in global attention).
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from medsam_adapter.adapters.tiled_attention import TiledAttention
from medsam_adapter.adapters.windows import offset_views, one_hot_positions, relative_tables, units_of, window_groups
from medsam_adapter.native import library as native

SEQUENCES_AT_ONCE = 32_768
"""Sequences of the depth branch in one call. CUDA's fused kernels take at most 65,535, which 16 slices of 64 x 64
tokens exceed (https://github.com/pytorch/pytorch/issues/142228)."""
_is_fused_on_cpu = False


@contextlib.contextmanager
def fused_attention() -> Iterator[None]:
    """Let encoders inside compute on a CPU as they do on an accelerator: how much memory they would take there."""
    global _is_fused_on_cpu
    before, _is_fused_on_cpu = _is_fused_on_cpu, True
    try:
        yield
    finally:
        _is_fused_on_cpu = before


def space_attention(attention: nn.Module, qkv: Tensor, window: int) -> Tensor:
    """Attention of the tokens of each window, or of the whole grid, before the output projection.

    Args:
        attention: a `SamVisionAttention`.
        qkv: (B, H, W, 3 C), its `qkv` projection of tokens that are not padded.
        window: side of a window in tokens, 0 for the whole grid, which must be square then.

    Returns:
        (B, H, W, C).
    """
    tables = relative_tables(attention, window or qkv.shape[1], qkv.dtype)
    padding = _padding(attention.qkv, qkv)
    call = (qkv, padding, tables, attention.num_attention_heads, window, attention.scale)
    if qkv.device.type != "cpu" or torch.compiler.is_compiling() or _is_fused_on_cpu:
        return _fused_attention(*call)
    is_trained = torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in (padding, tables))
    if not is_trained and native.serves(qkv, attention.num_attention_heads, padding, tables):
        return NativeAttention.apply(*call) if torch.is_grad_enabled() else native.attention(*call)
    return TiledAttention.apply(*call)


class NativeAttention(torch.autograd.Function):
    """The kernel in C, whose gradient is that of qkv alone: neither the projection's bias nor tables are trained."""

    @staticmethod
    def forward(ctx, qkv, padding, tables, heads, window, scale):
        log_sums = qkv.new_empty((*qkv.shape[:3], heads), dtype=torch.float32)
        out = native.attention(qkv, padding, tables, heads, window, scale, log_sums)
        ctx.save_for_backward(qkv, padding, tables, out, log_sums)
        ctx.settings = (heads, window, scale)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx, grad_out):
        qkv, padding, tables, out, log_sums = ctx.saved_tensors
        heads, window, scale = ctx.settings
        grad_qkv = native.attention_backward(grad_out, qkv, padding, tables, heads, window, scale, out, log_sums)
        return grad_qkv, None, None, None, None, None


def _padding(projection: nn.Module, qkv: Tensor) -> Tensor:
    """(3 C,): what the projection makes of the zeros that SAM pads with: its bias, unless PEFT has wrapped it."""
    if type(projection) is not nn.Linear:  # a LoRA may have a bias of its own
        of_zeros = projection(qkv.new_zeros(1, qkv.shape[-1] // 3))[0].to(qkv.dtype)
        has_trained_bias = any(p.requires_grad for name, p in projection.named_parameters() if "bias" in name)
        return of_zeros if has_trained_bias else of_zeros.detach()  # what only meets zeros gets no gradient
    return qkv.new_zeros(qkv.shape[-1]) if projection.bias is None else projection.bias.to(qkv.dtype)


def depth_attention(
    attention: nn.Module, qkv: Tensor, num_slices: int, slice_mask: Tensor | None, bias: Tensor | None
) -> Tensor:
    """Attention over the slices of a chunk, one sequence for each of the H x W positions, before the output projection.

    It runs over the whole grid before any window partition and without the 2-D relative positions (paper page,
    SD-Trans); positions never see each other here. The projection is the space branch's own: both branches share it.

    Args:
        attention: the block's frozen `SamVisionAttention`.
        qkv: (B * D, H, W, 3 C) as in `space_attention`.
        num_slices: D.
        slice_mask: (B, D) bool, False for slices that only fill up the chunk; None if all are real.
        bias: (h, D, D) added to the scores, or None.

    Returns:
        (B * D, H, W, C).
    """
    slices, height, width, channels = qkv.shape
    if slices % num_slices:
        raise ValueError(f"{slices} slices do not divide into chunks of {num_slices}")
    heads, volumes, channels = attention.num_attention_heads, slices // num_slices, channels // 3
    parts = qkv.view(volumes, num_slices, height * width, 3, heads, channels // heads)
    query, key, value = parts.permute(3, 0, 2, 4, 1, 5).flatten(1, 2).unbind(0)  # each (B * HW, h, D, c)
    scores_mask = None
    if bias is not None:
        scores_mask = bias[None].to(query.dtype)
    if slice_mask is not None:
        allowed = slice_mask.repeat_interleave(height * width, 0)[:, None, None, :]  # keys of real slices
        hidden = query.new_zeros(allowed.shape).masked_fill(~allowed, float("-inf"))
        scores_mask = hidden if scores_mask is None else scores_mask + hidden
    if scores_mask is not None:
        scores_mask = scores_mask.expand(query.shape[0], heads, num_slices, num_slices)
    mixed = _many_sequences(query, key, value, scores_mask)
    mixed = mixed.view(volumes, height * width, heads, num_slices, channels // heads).permute(0, 3, 1, 2, 4)
    return mixed.reshape(slices, height, width, channels)


def _many_sequences(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None) -> Tensor:
    """`scaled_dot_product_attention` of any number of sequences, (N, h, D, c) each; mask (N, h, D, D) or None."""
    if len(query) <= SEQUENCES_AT_ONCE:
        return F.scaled_dot_product_attention(query, key, value, attn_mask=mask)
    parts = [x.split(SEQUENCES_AT_ONCE) for x in (query, key, value)]
    masks = [None] * len(parts[0]) if mask is None else mask.split(SEQUENCES_AT_ONCE)
    calls = zip(*parts, masks, strict=True)
    return torch.cat([F.scaled_dot_product_attention(q, k, v, attn_mask=each) for q, k, v, each in calls])


def _fused_attention(
    qkv: Tensor, padding: Tensor, tables: Tensor | None, heads: int, window: int, scale: float
) -> Tensor:
    """All windows through `scaled_dot_product_attention`, without a mask, so that flash kernels take them."""
    images, side = len(qkv), window or qkv.shape[1]
    rows: dict[int, list[Tensor]] = {}
    for group in window_groups(qkv.shape[1], qkv.shape[2], window):
        extent = (group.height, group.width)
        query, *keys_and_values = units_of(group, qkv, heads)
        channels = query.shape[-1]
        if extent != (side, side):
            biases = padding.view(3, heads, 1, 1, channels)[1:]
            padded = [bias.expand(*query.shape[:4], side, side, -1).clone() for bias in biases]
            for whole, part in zip(padded, keys_and_values, strict=True):
                whole[..., : group.height, : group.width, :] = part
            keys_and_values = padded
        key, value = (part.reshape(-1, side * side, channels) for part in keys_and_values)
        query = query.reshape(-1, *extent, channels)
        features = [query * scale]
        if tables is not None:
            features += offset_views(query @ tables.t(), side)
            one_hot = one_hot_positions if not torch.compiler.is_compiling() else one_hot_positions.__wrapped__
            key = torch.cat([key, one_hot(side, key.dtype, key.device).expand(len(key), -1, -1)], -1)
        query = torch.cat(features, -1).flatten(1, 2)
        wide = -(-query.shape[-1] // 8) * 8  # fused kernels want one width for all three, a multiple of 8
        query, key, value = (F.pad(x, (0, wide - x.shape[-1]))[:, None] for x in (query, key, value))
        mixed = F.scaled_dot_product_attention(query, key, value, scale=1.0)[..., :channels]
        mixed = mixed.reshape(images, group.ny, group.nx, heads, *extent, channels).permute(0, 1, 4, 2, 5, 3, 6)
        mixed = mixed.reshape(images, group.ny * group.height, group.nx * group.width, heads * channels)
        rows.setdefault(group.y, []).append(mixed)
    return torch.cat([torch.cat(row, 2) for row in rows.values()], 1)
