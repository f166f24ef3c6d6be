"""Windowed attention in tiles, forward and backward: what CPUs take that have no kernel (`native/`).

Scores exist in tiles that fit the cache and are computed again in the backward pass, which keeps nothing but qkv:
memory is linear in the number of tokens.

Shapes: B images, (H, W) tokens, h heads of c channels, n side of a window, U = B x windows x h units that attend among
themselves, Q queries of a unit; u and q are those of one tile.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from medsam_adapter.adapters.linear import may_use_onednn, onednn_product
from medsam_adapter.adapters.windows import WindowGroup, offset_views, one_hot_positions, units_of, window_groups

TILE_ELEMENTS = 2**20
"""Scores computed at a time: 4 MB in fp32, which stays in the cache."""
LARGEST_FEATURE_SIDE = 32
"""Largest window whose positions are extra features (2 n of them); in larger ones adding them is cheaper."""


class TiledAttention(torch.autograd.Function):
    """All windows of a grid, in tiles; the backward pass keeps nothing but qkv."""

    @staticmethod
    def forward(ctx, qkv, padding, tables, heads, window, scale):
        ctx.save_for_backward(qkv, padding, tables)
        ctx.settings = (heads, window, scale)
        out = qkv.new_empty((*qkv.shape[:3], qkv.shape[3] // 3))
        for group in window_groups(qkv.shape[1], qkv.shape[2], window):
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
        for group in window_groups(qkv.shape[1], qkv.shape[2], window):
            windows = _Windows(group, qkv, padding, tables, heads, window or qkv.shape[1], scale)
            grad = group.cut(grad_out.unflatten(-1, (heads, -1))).permute(0, 1, 3, 5, 2, 4, 6)
            windows.backward(
                grad.reshape(len(windows.query), -1, windows.channels), grad_qkv, grad_padding, grad_tables
            )
        return grad_qkv, grad_padding, grad_tables, None, None, None


class _Windows:
    """One group of windows as matrices: queries (U, Q, c), keys and values (U, n n, c).

    Where windows are small, queries and keys carry their relative positions as features, c + 2 n; in large ones the
    products of a tile's queries and the tables are laid into the tile, and that of queries and keys is added.
    """

    def __init__(self, group: WindowGroup, qkv, padding, tables, heads, side, scale):
        self.group, self.heads, self.side, self.scale = group, heads, side, scale
        query, key, value = units_of(group, qkv, heads)
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
            self.key[..., self.channels :] = one_hot_positions(side, qkv.dtype, qkv.device)
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
        assert self.tables is not None  # else nobody asks
        query = self.plain_query[units, rows]
        products = query.flatten(0, 1) @ self.tables.t()
        products = products.view(len(query), -1, self.group.width, products.shape[-1])
        return offset_views(products, self.side, (rows.start or 0) // self.group.width)

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

    def backward(self, grad: Tensor, grad_qkv: Tensor, grad_padding: Tensor | None, grad_tables: Tensor | None) -> None:
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
        assert self.tables is not None
        query = self.plain_query[units, rows]
        shape = (len(query), query.shape[1] // self.group.width, self.group.width)
        products = query.new_zeros((*shape, self.tables.shape[0]))
        views = offset_views(products, self.side, (rows.start or 0) // self.group.width)
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
        units_of(self.group, grad_qkv, self.heads)[index].copy_(real)
        if grad_padding is not None:
            lost = grad.sum((0, 1, 2, 4, 5)) - real.sum((0, 1, 2, 4, 5))
            grad_padding.view(3, self.heads, -1)[index] += lost
