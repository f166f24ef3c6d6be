"""SAM's windowed attention with relative positions, exact and without the work that its usual form wastes.

What is not done here, compared with transformers' `SamVisionAttention` (the result is the same):

- Window padding is not projected and its queries are not computed. SAM pads after LayerNorm 1 with zeros, so a padded
  key or value is the bias of the qkv projection, a constant.
- Relative positions make no bias of the size of the attention matrix. Where windows are small they are extra features:
  q' = [scale q, q Rh, q Rw], k' = [k, onehot(y), onehot(x)], so that q' k' is the whole score; where they are large
  they are added tile by tile.
- On the CPU, scores exist in tiles that fit the cache, and are computed again in the backward pass: memory is linear in
  the number of tokens.

Shapes: B images, (H, W) tokens, C width, h heads of c channels, n side of a window (of the grid, in global attention),
U = B x windows x h units that attend among themselves, Q queries of a unit.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from medsam_adapter.adapters.linear import may_use_onednn, onednn_product

TILE_ELEMENTS = 2**20
"""Scores computed at a time: 4 MB in fp32, which stays in the cache."""
LARGEST_FEATURE_SIDE = 32
"""Largest window whose positions are extra features (2 n of them); in larger ones adding them is cheaper."""


@dataclass(frozen=True)
class WindowGroup:
    """Windows of one extent: `ny` x `nx` of them, the first at (y, x), each with `height` x `width` real tokens."""

    y: int
    x: int
    ny: int
    nx: int
    height: int
    width: int

    def cut(self, tokens: Tensor) -> Tensor:
        """(B, H, W, ...) -> the view (B, ny, height, nx, width, ...)."""
        part = tokens[:, self.y : self.y + self.ny * self.height, self.x : self.x + self.nx * self.width]
        return part.unflatten(2, (self.nx, self.width)).unflatten(1, (self.ny, self.height))


def window_groups(height: int, width: int, window: int) -> list[WindowGroup]:
    """The windows of a grid, whole ones and those that the edge cuts apart; window 0 is the whole grid."""
    if not window:
        return [WindowGroup(0, 0, 1, 1, height, width)]

    def along(length: int) -> list[tuple[int, int, int]]:  # start, number, extent
        whole, rest = divmod(length, window)
        return [(0, whole, window)] * bool(whole) + [(whole * window, 1, rest)] * bool(rest)

    return [WindowGroup(y, x, ny, nx, h, w) for y, ny, h in along(height) for x, nx, w in along(width)]


def relative_tables(attention: nn.Module, side: int, dtype: torch.dtype) -> Tensor | None:
    """Both relative position tables of a window, last offset first: (2 (2 n - 1), c); None for a SAM without them.

    They are resized only if a window has another size than the tables; `set_image_size` has done so before.
    """
    if not attention.use_rel_pos:
        return None
    length, tables = 2 * side - 1, []
    for table in (attention.rel_pos_h, attention.rel_pos_w):
        if len(table) != length:
            table = F.interpolate(table.t()[None], length, mode="linear")[0].t()
        tables.append(table.flip(0))
    return torch.cat(tables).to(dtype)


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
    bias = attention.qkv.bias
    padding = qkv.new_zeros(qkv.shape[-1]) if bias is None else bias.to(qkv.dtype)
    call = (qkv, padding, tables, attention.num_attention_heads, window, attention.scale)
    if qkv.device.type == "cpu" and not torch.compiler.is_compiling():
        return _TiledAttention.apply(*call)
    return _fused_attention(*call)


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
    mixed = F.scaled_dot_product_attention(query, key, value, attn_mask=scores_mask)
    mixed = mixed.view(volumes, height * width, heads, num_slices, channels // heads).permute(0, 3, 1, 2, 4)
    return mixed.reshape(slices, height, width, channels)


# -- relative positions ------------------------------------------------------------------------------------------------


def _offset_views(products: Tensor, side: int, first_row: int = 0) -> tuple[Tensor, Tensor]:
    """Of (U, y, x, 2 (2 n - 1)) products of queries and tables those of each key row and each key column.

    Offsets between query and key are not gathered: each query meets the whole table once, and a view that starts one
    entry earlier for each row (column) of queries picks the right ones: twice (U, y, x, n). y counts from `first_row`.
    """
    unit, row, column, one = products.stride()
    shape, start = (*products.shape[:3], side), products.storage_offset() + side - 1
    rows = products.as_strided(shape, (unit, row - one, column, one), start - first_row)
    return rows, products.as_strided(shape, (unit, row, column - one, one), start + 2 * side - 1)


@functools.lru_cache(maxsize=16)
def _one_hot_positions(side: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """(n n, 2 n): row and column of each key, one-hot."""
    with torch.inference_mode(False):  # kept, so it must serve later calls of any mode
        one = torch.eye(side, dtype=dtype, device=device)
        rows, columns = one[:, None].expand(side, side, side), one[None].expand(side, side, side)
        return torch.cat([rows, columns], -1).reshape(side * side, 2 * side)


# -- accelerators, and torch.compile -----------------------------------------------------------------------------------


def _fused_attention(
    qkv: Tensor, padding: Tensor, tables: Tensor | None, heads: int, window: int, scale: float
) -> Tensor:
    """All windows through `scaled_dot_product_attention`, without a mask, so that flash kernels take them."""
    images, side = len(qkv), window or qkv.shape[1]
    rows: dict[int, list[Tensor]] = {}
    for group in window_groups(*qkv.shape[1:3], window):
        extent = (group.height, group.width)
        query, *keys_and_values = _units(group, qkv, heads)
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
            features += _offset_views(query @ tables.t(), side)
            one_hot = _one_hot_positions if not torch.compiler.is_compiling() else _one_hot_positions.__wrapped__
            key = torch.cat([key, one_hot(side, key.dtype, key.device).expand(len(key), -1, -1)], -1)
        query = torch.cat(features, -1).flatten(1, 2)
        wide = -(-query.shape[-1] // 8) * 8  # fused kernels want one width for all three, a multiple of 8
        query, key, value = (F.pad(x, (0, wide - x.shape[-1]))[:, None] for x in (query, key, value))
        mixed = F.scaled_dot_product_attention(query, key, value, scale=1.0)[..., :channels]
        mixed = mixed.reshape(images, group.ny, group.nx, heads, *extent, channels).permute(0, 1, 4, 2, 5, 3, 6)
        mixed = mixed.reshape(images, group.ny * group.height, group.nx * group.width, heads * channels)
        rows.setdefault(group.y, []).append(mixed)
    return torch.cat([torch.cat(row, 2) for row in rows.values()], 1)


# -- CPU ---------------------------------------------------------------------------------------------------------------


def _units(group: WindowGroup, qkv: Tensor, heads: int) -> Tensor:
    """(B, H, W, 3 h c) -> the view (3, B, ny, nx, h, height, width, c)."""
    return group.cut(qkv.unflatten(-1, (3, heads, -1))).permute(5, 0, 1, 3, 6, 2, 4, 7)


class _TiledAttention(torch.autograd.Function):
    """All windows of a grid, in tiles; the backward pass keeps nothing but qkv."""

    @staticmethod
    def forward(ctx, qkv, padding, tables, heads, window, scale):
        ctx.save_for_backward(qkv, padding, tables)
        ctx.settings = (heads, window, scale)
        out = qkv.new_empty((*qkv.shape[:3], qkv.shape[3] // 3))
        for group in window_groups(*qkv.shape[1:3], window):
            windows = _Windows(group, qkv, padding, tables, heads, window or qkv.shape[1], scale)
            mixed = windows.value.new_empty((*windows.query.shape[:2], windows.channels))
            for units, rows in windows.tiles():
                windows.mix(windows.probabilities(units, rows), units, mixed[units, rows])
            shape = (len(out), group.ny, group.nx, heads, group.height, group.width, windows.channels)
            group.cut(out.unflatten(-1, (heads, -1))).copy_(mixed.view(shape).permute(0, 1, 4, 2, 5, 3, 6))
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx, grad_out):
        qkv, padding, tables = ctx.saved_tensors
        heads, window, scale = ctx.settings
        grad_qkv = torch.empty_like(qkv)
        grad_padding = torch.zeros_like(padding) if ctx.needs_input_grad[1] else None
        grad_tables = torch.zeros_like(tables) if tables is not None and ctx.needs_input_grad[2] else None
        for group in window_groups(*qkv.shape[1:3], window):
            windows = _Windows(group, qkv, padding, tables, heads, window or qkv.shape[1], scale)
            grad = group.cut(grad_out.unflatten(-1, (heads, -1))).permute(0, 1, 3, 5, 2, 4, 6)
            windows.backward(grad.reshape(len(windows.query), -1, windows.channels), grad_qkv, grad_padding, grad_tables)
        return grad_qkv, grad_padding, grad_tables, None, None, None


class _Windows:
    """One group of windows as matrices: queries (U, Q, c), keys and values (U, n n, c).

    Where windows are small, queries and keys carry their relative positions as features, c + 2 n; in large ones the
    products of a tile's queries and the tables are laid into the tile, and that of queries and keys is added.
    """

    def __init__(self, group, qkv, padding, tables, heads, side, scale):
        self.group, self.heads, self.side, self.scale = group, heads, side, scale
        query, key, value = _units(group, qkv, heads)
        self.lead, self.channels = query.shape[:4], query.shape[-1]  # lead: B, ny, nx, h
        self.tables = None if tables is None else tables / scale  # to be met by scaled queries
        self.has_features = tables is not None and side <= LARGEST_FEATURE_SIDE
        width = self.channels + 2 * side * self.has_features

        whole = qkv.new_empty((*self.lead, group.height, group.width, width))
        torch.mul(query, scale, out=whole[..., : self.channels])
        self.query = whole.view(-1, group.height * group.width, width)
        self.plain_query = self.query[..., : self.channels]
        _, bias_of_keys, bias_of_values = padding.view(3, heads, 1, 1, -1)
        self.key = self._padded(key, bias_of_keys, width)
        self.value = self._padded(value, bias_of_values, self.channels)
        if self.has_features:
            grid = whole.view(-1, group.height, group.width, width)
            views = self._relative(slice(None), slice(None))
            for view, start in zip(views, (self.channels, self.channels + side), strict=True):
                grid[..., start : start + side].copy_(view)
            self.key[..., self.channels :] = _one_hot_positions(side, qkv.dtype, qkv.device)
            self.key_columns = self.key.mT
        else:
            self.key_columns = self.key.mT.contiguous()  # once, and not in each of many tiles
        # Tiles of a single unit are plain products, and oneDNN's in fp32 are the faster ones.
        is_single = 2 * self.query.shape[1] * self.key.shape[1] > TILE_ELEMENTS
        self.value_rows = self.value.mT.contiguous() if is_single and may_use_onednn(self.value) else None

    def _padded(self, part: Tensor, bias: Tensor, width: int) -> Tensor:
        """(U, n n, width) of which the first c are those of the tokens, and the bias where there is no token."""
        whole = part.new_empty((*self.lead, self.side, self.side, width))
        into = whole[..., : self.channels]
        if (self.group.height, self.group.width) != (self.side, self.side):
            into.copy_(bias)
        into[..., : self.group.height, : self.group.width, :].copy_(part)
        return whole.view(-1, self.side * self.side, width)

    def tiles(self) -> list[tuple[slice, slice]]:
        """Slices of units and of queries (whole rows of the window) whose scores fill one tile."""
        units, queries, keys = len(self.query), self.query.shape[1], self.key.shape[1]
        if queries * keys <= TILE_ELEMENTS:
            step = max(1, TILE_ELEMENTS // (queries * keys))
            return [(slice(u, u + step), slice(None)) for u in range(0, units, step)]
        step = max(1, TILE_ELEMENTS // keys // self.group.width) * self.group.width
        return [(slice(u, u + 1), slice(q, q + step)) for u in range(units) for q in range(0, queries, step)]

    def _relative(self, units: slice, rows: slice) -> tuple[Tensor, Tensor]:
        """What a tile's queries have with each key row and key column: views, twice (u, y, x, n)."""
        query = self.plain_query[units, rows]
        products = query.flatten(0, 1) @ self.tables.t()
        products = products.view(len(query), -1, self.group.width, products.shape[-1])
        return _offset_views(products, self.side, (rows.start or 0) // self.group.width)

    def probabilities(self, units: slice, rows: slice) -> Tensor:
        """(u, q, n n) of one tile."""
        if self.has_features or self.tables is None:
            scores = torch.bmm(self.query[units, rows], self.key_columns[units])
        else:
            of_rows, of_columns = self._relative(units, rows)
            scores = (of_rows[..., :, None] + of_columns[..., None, :]).flatten(3).flatten(1, 2)
            scores.baddbmm_(self.query[units, rows], self.key_columns[units])
        if scores.dtype == torch.float32:
            return torch.softmax(scores, -1, out=scores)
        return torch.softmax(scores, -1)  # with `out` torch takes a detour for bfloat16

    def mix(self, probabilities: Tensor, units: slice, out: Tensor) -> None:
        """Values by their probabilities: (u, q, n n) -> (u, q, c), into `out`."""
        if self.value_rows is None:
            torch.bmm(probabilities, self.value[units], out=out)
        else:
            out[0] = onednn_product(probabilities[0], self.value_rows[units.start])

    def backward(
        self, grad: Tensor, grad_qkv: Tensor, grad_padding: Tensor | None, grad_tables: Tensor | None
    ) -> None:
        """Write the group's part of the gradient of qkv, and add to those of padding and tables, if wanted.

        Args:
            grad: (U, Q, c), the gradient of the result.
        """
        grad_query = torch.empty_like(self.query)
        grad_key, grad_value = torch.zeros_like(self.value), torch.zeros_like(self.value)
        for units, rows in self.tiles():
            probabilities = self.probabilities(units, rows)
            grad_value[units].baddbmm_(probabilities.mT, grad[units, rows])
            grad_scores = torch.bmm(grad[units, rows], self.value[units].mT)
            grad_scores = torch.ops.aten._softmax_backward_data(grad_scores, probabilities, -1, grad_scores.dtype)
            torch.bmm(grad_scores, self.key[units], out=grad_query[units, rows])
            grad_key[units].baddbmm_(grad_scores.mT, self.plain_query[units, rows])
            if self.tables is not None:
                if self.has_features:
                    relative = grad_query[units, rows, self.channels :].split(self.side, -1)
                else:
                    relative = [grad_scores.unflatten(-1, (self.side,) * 2).sum(axis) for axis in (-1, -2)]
                self._relative_backward(units, rows, relative, grad_query, grad_tables)
        self._merge(0, grad_query[..., : self.channels] * self.scale, grad_qkv, None)
        self._merge(1, grad_key, grad_qkv, grad_padding)
        self._merge(2, grad_value, grad_qkv, grad_padding)

    def _relative_backward(self, units, rows, relative, grad_query, grad_tables) -> None:
        """The way back through `_relative`: into the gradient of a tile's queries and, if wanted, of the tables."""
        query = self.plain_query[units, rows]
        shape = (len(query), query.shape[1] // self.group.width, self.group.width)
        products = query.new_zeros((*shape, self.tables.shape[0]))
        views = _offset_views(products, self.side, (rows.start or 0) // self.group.width)
        for view, grad in zip(views, relative, strict=True):
            view.copy_(grad.reshape(view.shape))
        products = products.view(-1, self.tables.shape[0])
        grad_query[units, rows, : self.channels] += (products @ self.tables).view(query.shape)
        if grad_tables is not None:
            grad_tables.add_(products.t() @ query.flatten(0, 1), alpha=1 / self.scale)

    def _merge(self, index: int, grad: Tensor, grad_qkv: Tensor, grad_padding: Tensor | None) -> None:
        """Write the gradient of queries (0), keys (1) or values (2) where it belongs."""
        extent = (self.side, self.side) if index else (self.group.height, self.group.width)
        grad = grad.view(*self.lead, *extent, -1)
        real = grad[..., : self.group.height, : self.group.width, :]
        _units(self.group, grad_qkv, self.heads)[index].copy_(real)
        if grad_padding is not None:
            lost = grad.sum((0, 1, 2, 4, 5)) - real.sum((0, 1, 2, 4, 5))
            grad_padding.view(3, self.heads, -1)[index] += lost
