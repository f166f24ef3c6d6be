"""The surface of a mask, in mm, for the 3-D view."""

from __future__ import annotations

import numpy as np
from scipy import ndimage

MAX_SIDE = 128
_SMOOTHING_VOXELS = 0.7


def surface_of(mask: np.ndarray, affine: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Marching cubes (scikit-image) on a slightly smoothed mask.

    Args:
        mask: (D, H, W) bool; sampled to at most `MAX_SIDE` voxels an axis.
        affine: (4, 4), voxel (i, j, k) -> RAS mm.

    Returns:
        vertices (V, 3) float32 in RAS mm, and triangles (T, 3) uint32; both empty for an empty mask.
    """
    if not mask.any():
        return np.zeros((0, 3), np.float32), np.zeros((0, 3), np.uint32)
    from skimage.measure import marching_cubes

    low = [np.flatnonzero(mask.any(tuple(other for other in range(3) if other != axis)))[0] for axis in range(3)]
    high = [np.flatnonzero(mask.any(tuple(other for other in range(3) if other != axis)))[-1] for axis in range(3)]
    inside = mask[tuple(slice(a, b + 1) for a, b in zip(low, high, strict=True))]
    steps = [max(1, -(-size // MAX_SIDE)) for size in inside.shape]
    # A margin of nothing closes the surface where the object touches the edge of the scan.
    soft = ndimage.gaussian_filter(np.pad(inside[tuple(slice(None, None, s) for s in steps)], 2).astype(np.float32),
                                   _SMOOTHING_VOXELS)  # fmt: skip
    level = min(0.5, 0.6 * float(soft.max()))  # one voxel alone is smoothed below one half
    vertices, triangles, _, _ = marching_cubes(soft, level)
    zyx = (vertices - 2) * steps + low
    ijk = np.concatenate([zyx[:, ::-1], np.ones((len(zyx), 1))], 1)
    return (ijk @ affine.T)[:, :3].astype(np.float32), triangles.astype(np.uint32)
