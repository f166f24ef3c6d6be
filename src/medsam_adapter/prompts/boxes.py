"""Boxes from masks. A box is x0 y0 x1 y1 by its first and last pixel, so a single pixel is x x y y twice."""

from __future__ import annotations

import numpy as np


def tight_box(mask: np.ndarray) -> np.ndarray:
    """The box (4,) of a non-empty (H, W) mask, float32."""
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    if not len(rows):
        raise ValueError("an empty mask has no box")
    return np.array([columns[0], rows[0], columns[-1], rows[-1]], np.float32)


def jittered_box(mask: np.ndarray, rng: np.random.Generator, amount: float = 0.1, limit: float = 20.0) -> np.ndarray:
    """The tight box, each side moved by a normal draw of `amount` times the side, at most `limit` pixels."""
    box = tight_box(mask)
    moved = box + np.clip(rng.normal(0, amount, 4) * _sides(box), -limit, limit)
    return _inside(moved, mask.shape)


def box_iou(a: np.ndarray, b: np.ndarray) -> float:
    """Intersection over union of two boxes."""
    overlap_sides = np.minimum(a[2:], b[2:]) - np.maximum(a[:2], b[:2]) + 1
    overlap = float(np.prod(np.maximum(overlap_sides, 0)))
    return overlap / (float(np.prod(a[2:] - a[:2] + 1) + np.prod(b[2:] - b[:2] + 1)) - overlap)


def box_with_iou(box: np.ndarray, iou: float, size_hw: tuple[int, int], rng: np.random.Generator) -> np.ndarray:
    """A box that overlaps `box` with the given IoU (the paper's "bbox 0.5" and "bbox 0.75").

    The direction of the change is drawn, its amount found by bisection. A box is kept in the picture, so that a target
    as large as the picture may keep a higher IoU than asked for.
    """
    direction = rng.uniform(0.2, 1, 4) * rng.choice([-1, 1], 4) * _sides(box)
    low, high = 0.0, 1.0
    while box_iou(box, _inside(box + high * direction, size_hw)) > iou and high < 64:
        high *= 2
    for _ in range(40):
        middle = 0.5 * (low + high)
        low, high = (middle, high) if box_iou(box, _inside(box + middle * direction, size_hw)) > iou else (low, middle)
    return _inside(box + low * direction, size_hw)


def _sides(box: np.ndarray) -> np.ndarray:
    width, height = box[2:] - box[:2] + 1
    return np.array([width, height, width, height])


def _inside(box: np.ndarray, size_hw: tuple[int, int]) -> np.ndarray:
    """Corners in order and in the picture."""
    (x0, x1), (y0, y1) = sorted((box[0], box[2])), sorted((box[1], box[3]))
    limits = np.array([size_hw[1], size_hw[0]] * 2) - 1
    return np.clip(np.array([x0, y0, x1, y1]), 0, limits).astype(np.float32)
