"""Whether two voxel grids are the same, and bringing an array from one way of storing a grid onto another."""

from __future__ import annotations

import numpy as np

GRID_TOLERANCE_MM = 1e-2
LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])


def is_of_a_volume(affine: np.ndarray) -> bool:
    """Whether an affine (4, 4) is finite and its three axes span a volume (sheared by less than 89 degrees or so)."""
    if not np.isfinite(affine).all():
        return False
    sizes = np.linalg.norm(affine[:3, :3], axis=0)
    return bool(sizes.min() > 0 and abs(np.linalg.det(affine[:3, :3] / np.where(sizes > 0, sizes, 1))) > 1e-4)


def grid_offset_mm(affine: np.ndarray, other: np.ndarray, shape_zyx: tuple[int, ...]) -> float:
    """How far apart two affines put the corners of one grid, at most, in mm."""
    corners = np.array(np.meshgrid(*[(0, size - 1) for size in shape_zyx[::-1]])).reshape(3, -1)
    return float(np.linalg.norm((affine - other) @ np.vstack([corners, np.ones(8)]), axis=0).max())


def onto_grid(
    array_zyx: np.ndarray, affine: np.ndarray, like_affine: np.ndarray, like_shape_zyx: tuple[int, ...]
) -> np.ndarray | None:
    """The same voxels with their axes in the order and direction of another grid; nothing is resampled.

    Args:
        array_zyx: (D, H, W); array[k, j, i] lies at `affine` @ (i, j, k, 1), in mm.
        like_affine: (4, 4) of the wanted grid, which has `like_shape_zyx`.

    Returns:
        an array of `like_shape_zyx`, or None where the grids are not the same voxels, to 0.01 mm at the corners.
    """
    if array_zyx.shape == tuple(like_shape_zyx):
        if grid_offset_mm(affine, like_affine, like_shape_zyx) <= GRID_TOLERANCE_MM:
            return array_zyx
    if not is_of_a_volume(like_affine):  # a single slice may have no third axis
        return None
    step = np.linalg.solve(like_affine[:3, :3], affine[:3, :3])  # one step along each of our axes, in voxels of theirs
    signs = np.rint(step).astype(int)
    if not (np.abs(signs).sum(0) == 1).all() or not (np.abs(signs).sum(1) == 1).all():
        return None
    axes = np.abs(signs).argmax(1)  # our axis that runs along their i, j, k
    turned = array_zyx.transpose(2, 1, 0).transpose(axes)
    flips = [int(signs[theirs, ours]) for theirs, ours in enumerate(axes)]
    turned = turned[tuple(slice(None, None, flip) for flip in flips)]
    if turned.shape != tuple(like_shape_zyx)[::-1]:
        return None
    to_ours = np.zeros((4, 4))  # voxel of the turned array -> voxel of ours
    to_ours[3, 3] = 1
    for theirs, (ours, flip) in enumerate(zip(axes, flips, strict=True)):
        to_ours[ours, theirs] = flip
        to_ours[ours, 3] = 0 if flip > 0 else turned.shape[theirs] - 1
    if grid_offset_mm(affine @ to_ours, like_affine, like_shape_zyx) > GRID_TOLERANCE_MM:
        return None
    return np.ascontiguousarray(turned.transpose(2, 1, 0))
