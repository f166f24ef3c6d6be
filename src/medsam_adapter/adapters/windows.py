"""The windows of SAM's attention: where they lie, and the positions of their tokens relative to each other.

Shapes: B images, (H, W) tokens, h heads of c channels, n side of a window (of the grid, in global attention), U = B x
windows x h units that attend among themselves.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn


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


def units_of(group: WindowGroup, qkv: Tensor, heads: int) -> Tensor:
    """(B, H, W, 3 h c) -> the view (3, B, ny, nx, h, height, width, c)."""
    return group.cut(qkv.unflatten(-1, (3, heads, -1))).permute(5, 0, 1, 3, 6, 2, 4, 7)


def offset_views(products: Tensor, side: int, first_row: int = 0) -> tuple[Tensor, Tensor]:
    """Of (U, y, x, 2 (2 n - 1)) products of queries and tables those of each key row and each key column.

    Offsets between query and key are not gathered: each query meets the whole table once, and a view that starts one
    entry earlier for each row (column) of queries picks the right ones: twice (U, y, x, n). y counts from `first_row`.
    The products must be a tensor of their own, which starts where its memory starts.
    """
    unit, row, column, one = products.stride()
    shape, start = (*products.shape[:3], side), side - 1
    rows = products.as_strided(shape, (unit, row - one, column, one), start - first_row)
    return rows, products.as_strided(shape, (unit, row, column - one, one), start + 2 * side - 1)


@functools.lru_cache(maxsize=16)
def one_hot_positions(side: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """(n n, 2 n): row and column of each key, one-hot."""
    with torch.inference_mode(False):  # kept, so it must serve later calls of any mode
        one = torch.eye(side, dtype=dtype, device=device)
        rows, columns = one[:, None].expand(side, side, side), one[None].expand(side, side, side)
        return torch.cat([rows, columns], -1).reshape(side * side, 2 * side)
