"""What the authors' public code computes in an encoder block: the mode `compatibility: official`.

    x_w = windows(pad(x));  n = LN1(x_w)
    a = Attn(n);  a = a + Space(a) [+ Depth(Attn(folded depth of n))];  h = x + unpad(windows back(a))
    y = h + MLP(LN2(h)) + s * Mlp(LN2(h))

It differs from the paper's block (`vision_layer.py`) in two places:

- LayerNorm 1 comes after the window partition, so a padded token is not zero but the LayerNorm's bias, and is attended.
- The depth attention runs on the windows. They are counted slice by slice, and each D of them that follow one another
  make a sequence at each of the n x n positions, for D slices: with 5 x 5 windows a sequence of 96 holds 4 slices. The
  sequence is folded to a grid of two sides, for which SAM's relative positions are resized, and attends as one.

Facts from https://github.com/ImprintLab/Medical-SAM-Adapter, models/ImageEncoder/vit/adapter_block.py; our own code.

Shapes: B volumes of D slices, (H, W) tokens padded to (H', W'), windows of n x n, C width, h heads of c channels.
"""

from __future__ import annotations

from types import SimpleNamespace

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers.models.sam.modeling_sam import SamVisionLayer

from medsam_adapter.adapters.attention import space_attention
from medsam_adapter.adapters.fast_layer import has_fast_path
from medsam_adapter.adapters.linear import linear

SEQUENCES_AT_ONCE = 1024
"""Depth sequences that are attended to together, so that a volume's scores need not fit memory all at once."""


def knows_positions(block: SamVisionLayer, relative_positions: str) -> bool:
    """Whether a block's attention uses SAM's relative positions: of all blocks, of the windowed ones, or of none."""
    return block.attn.use_rel_pos and (
        relative_positions == "all" or (relative_positions == "windowed" and block.window_size > 0)
    )


def padded_projection(block: SamVisionLayer, hidden_states: Tensor) -> tuple[Tensor, Tensor]:
    """LayerNorm 1 and qkv of the tokens and of the zeros that fill up the last windows.

    Args:
        hidden_states: (N, H, W, C).

    Returns:
        normed tokens (N, H', W', C) and their projection (N, H', W', 3 C).
    """
    if block.window_size:
        height, width = (-size % block.window_size for size in hidden_states.shape[1:3])
        hidden_states = F.pad(hidden_states, (0, 0, 0, width, 0, height))
    normed = block.layer_norm1(hidden_states)
    return normed, linear(block.attn.qkv, normed)


def space_branch(block: SamVisionLayer, normed: Tensor, qkv: Tensor, positions: bool) -> Tensor:
    """Attention inside each window, projected: (N, H', W', C), from what `padded_projection` gives."""
    attention, window = block.attn, block.window_size
    if has_fast_path(block, normed):
        # Nothing is left to pad, so the padding that `space_attention` would add plays no part.
        seen = attention if positions else _without_positions(attention)
        return linear(attention.proj, space_attention(seen, qkv, window))
    side = window or normed.shape[1]
    if positions:
        mixed = attention(hidden_states=_windows(normed, side).flatten(0, 2))[0]
    else:
        mixed = linear(attention.proj, _grid_attention(attention, _windows(qkv, side).flatten(0, 2), False))
    return _from_windows(mixed, normed.shape)


def depth_branch(
    block: SamVisionLayer, qkv: Tensor, num_slices: int, slice_mask: Tensor | None, positions: bool
) -> Tensor:
    """Attention over folded sequences of windows, projected: (N, H', W', C).

    Args:
        qkv: (B * D, H', W', 3 C), as `padded_projection` gives it.
        num_slices: D.
        slice_mask: (B, D) bool, False for slices that only fill up a chunk. A volume is computed as if they were not
            there (ours: the public code drops a last chunk that is too short), and gets zeros in their place.
        positions: whether the folded sequence has relative positions.
    """
    if len(qkv) % num_slices:
        raise ValueError(f"{len(qkv)} slices do not divide into chunks of {num_slices}")
    attention = block.attn
    windows = _windows(qkv, block.window_size or qkv.shape[1])
    if slice_mask is None or bool(slice_mask.all()):
        mixed = _sequences_of(attention, windows, num_slices, positions)
    else:
        mixed = windows.new_zeros(*windows.shape[:-1], windows.shape[-1] // 3)
        for number, is_real in enumerate(slice_mask):
            rows = number * num_slices + is_real.nonzero().flatten()
            if len(rows):
                mixed[rows] = _sequences_of(attention, windows[rows], len(rows), positions)
    shape = (*qkv.shape[:-1], qkv.shape[-1] // 3)
    return linear(attention.proj, _from_windows(mixed.flatten(0, 2), shape))


def folded_sides(length: int) -> tuple[int, int]:
    """Sides of the grid that a sequence of this length is folded to: the two different divisors nearest to each other.

    A length of 1, for which the public code never ends, stays 1 x 1.
    """
    small = max((side for side in range(1, length) if side * side < length and length % side == 0), default=1)
    return small, length // small


def _sequences_of(attention: nn.Module, windows: Tensor, num_slices: int, positions: bool) -> Tensor:
    """(N, y, x, n, n, 3 C) windows, N a multiple of D -> what the depth attention makes of them, (N, y, x, n, n, C)."""
    side, channels = windows.shape[3], windows.shape[-1]
    entries = windows.reshape(-1, num_slices, side * side, channels)  # D windows that follow one another
    sequences = entries.transpose(1, 2).flatten(0, 1).unflatten(1, folded_sides(num_slices))
    parts = [_grid_attention(attention, part, positions) for part in sequences.split(SEQUENCES_AT_ONCE)]
    mixed = torch.cat(parts).flatten(1, 2).unflatten(0, (-1, side * side)).transpose(1, 2)
    return mixed.reshape(*windows.shape[:-1], channels // 3)


def _grid_attention(attention: nn.Module, qkv: Tensor, positions: bool) -> Tensor:
    """Attention over grids of any two sides, before the output projection: (N, y, x, 3 C) -> (N, y, x, C).

    Relative positions are extra features, as in `attention.py`: q' = [s q, q Rh, q Rw], k' = [k, onehot y, onehot x].
    """
    count, height, width, channels = qkv.shape
    heads = attention.num_attention_heads
    parts = qkv.view(count, height * width, 3, heads, channels // 3 // heads)
    query, key, value = parts.permute(2, 0, 3, 1, 4).unbind(0)  # each (N, h, y x, c)
    scaled = query * attention.scale
    if positions:
        rows, columns = (_offsets(attention, axis, length) for axis, length in (("h", height), ("w", width)))
        grid = query.unflatten(2, (height, width))
        by_row = torch.einsum("nhyxc,ykc->nhyxk", grid, rows.to(grid.dtype)).flatten(2, 3)
        by_column = torch.einsum("nhyxc,xkc->nhyxk", grid, columns.to(grid.dtype)).flatten(2, 3)
        scaled = torch.cat([scaled, by_row, by_column], -1)
        y = torch.arange(height, device=key.device).repeat_interleave(width)
        x = torch.arange(width, device=key.device).repeat(height)
        one_hot = torch.cat([F.one_hot(y, height), F.one_hot(x, width)], -1).to(key.dtype)
        key = torch.cat([key, one_hot.expand(count, heads, -1, -1)], -1)
        value = F.pad(value, (0, height + width))  # fused kernels want one width for all three
    mixed = F.scaled_dot_product_attention(scaled, key, value, scale=1.0)[..., : channels // 3 // heads]
    return mixed.transpose(1, 2).reshape(count, height, width, channels // 3)


def _offsets(attention: nn.Module, axis: str, length: int) -> Tensor:
    """The relative position table for a side, by query and key: (length, length, c).

    The table of the base's own size is resized, also after `set_image_size` has resized the one in use.
    """
    table = getattr(attention, f"original_rel_pos_{axis}", None)
    table = getattr(attention, f"rel_pos_{axis}") if table is None else table
    if len(table) != 2 * length - 1:
        table = F.interpolate(table.float().t()[None], 2 * length - 1, mode="linear")[0].t()
    places = torch.arange(length, device=table.device)
    return table[places[:, None] - places[None] + length - 1]


def _without_positions(attention: nn.Module) -> SimpleNamespace:
    """The same attention to `space_attention`, but without relative positions."""
    return SimpleNamespace(
        use_rel_pos=False,
        qkv=attention.qkv,
        num_attention_heads=attention.num_attention_heads,
        scale=attention.scale,
    )


def _windows(tokens: Tensor, side: int) -> Tensor:
    """(N, H', W', ...) -> (N, y, x, side, side, ...)."""
    return tokens.unflatten(2, (-1, side)).unflatten(1, (-1, side)).transpose(2, 3)


def _from_windows(windows: Tensor, shape: tuple[int, ...]) -> Tensor:
    """(N * y * x, side, side, C) -> (N, H', W', C)."""
    side = windows.shape[1]
    count, height, width = shape[:3]
    grid = windows.unflatten(0, (count, height // side, width // side))
    return grid.transpose(2, 3).reshape(count, height, width, -1)
