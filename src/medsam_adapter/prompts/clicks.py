"""Click simulation: where a person would click, given the target and what the model shows so far.

The first click is random in the target; each following one lies in the largest connected region where the prediction is
wrong, at its most interior point, foreground if the region was missed and background if it was wrongly included (paper,
"Training with prompts"; the most interior point is our choice). Points are (x, y) in pixels of the mask given.
"""

from __future__ import annotations

import numpy as np
from scipy import ndimage

FOREGROUND, BACKGROUND, PADDING = 1, 0, -1
"""Point labels of SAM's prompt encoder: object, not object, no point (fills up rows of different length)."""


def interior_point(mask: np.ndarray) -> tuple[int, int]:
    """The point (x, y) of a non-empty (H, W) mask farthest from its edge; the picture's border counts as edge."""
    ys, xs = _bounds(mask)
    depth = ndimage.distance_transform_edt(np.pad(mask[ys, xs], 1))[1:-1, 1:-1]
    y, x = np.unravel_index(np.argmax(depth), depth.shape)
    return int(x + xs.start), int(y + ys.start)


def random_point(mask: np.ndarray, rng: np.random.Generator) -> tuple[int, int]:
    """A point (x, y) drawn evenly from a non-empty (H, W) mask."""
    inside = np.flatnonzero(mask)
    y, x = divmod(int(inside[rng.integers(len(inside))]), mask.shape[1])
    return x, y


def largest_component(mask: np.ndarray) -> np.ndarray:
    """The largest 4-connected (2-D) or 6-connected (3-D) region of a mask; an empty mask comes back empty."""
    regions, count = ndimage.label(mask)
    if count < 2:
        return mask
    return regions == np.argmax(np.bincount(regions.ravel())[1:]) + 1


def correction_click(prediction: np.ndarray, target: np.ndarray) -> tuple[tuple[int, int], int]:
    """Where a person would click next.

    Args:
        prediction: (H, W) bool, what the model shows.
        target: (H, W) bool, what it should show.

    Returns:
        ((x, y), label) with label 1 (missed object) or 0 (wrongly included); ((0, 0), -1) if nothing is wrong.
    """
    wrong = prediction != target
    if not wrong.any():
        return (0, 0), PADDING
    x, y = interior_point(largest_component(wrong))
    return (x, y), FOREGROUND if target[y, x] else BACKGROUND


def _bounds(mask: np.ndarray) -> tuple[slice, slice]:
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    if not len(rows):
        raise ValueError("an empty mask has no interior point")
    return slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1)
