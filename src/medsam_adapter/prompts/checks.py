"""Whether the prompts of a call fit their images, in pixels of the source."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from medsam_adapter.errors import PromptError
from medsam_adapter.prompts.clicks import PADDING


def check_point(point: Sequence[float] | np.ndarray, shape: tuple[int, ...], is_volume: bool) -> None:
    """Raise a `PromptError` unless the point (x, y) or (x, y, z) lies in a (D, H, W) image."""
    wanted = 3 if is_volume else 2
    if len(point) != wanted:
        raise PromptError(
            f"a point of this {'volume' if is_volume else 'image'} has {wanted} numbers",
            expected="x, y, z" if is_volume else "x, y",
            found=", ".join(f"{v:g}" for v in point),
            hint="z is the slice, counted from 0" if is_volume else "leave the slice out",
        )
    limits = (shape[2], shape[1], shape[0])
    if any(not 0 <= value <= limit - 1 for value, limit in zip(point, limits, strict=False)):
        raise PromptError(
            "a point lies outside the image",
            expected=", ".join(f"0 <= {n} <= {s - 1}" for n, s in zip("xyz"[:wanted], limits, strict=False)),
            found=", ".join(f"{v:g}" for v in point),
            hint="points are x (column), y (row), z (slice), counted from 0",
        )


def check_box(box: Sequence[float], shape: tuple[int, ...]) -> None:
    """Raise a `PromptError` unless x0 y0 x1 y1 is a box in a (D, H, W) image."""
    if len(box) != 4 or not (0 <= box[0] <= box[2] <= shape[2] - 1 and 0 <= box[1] <= box[3] <= shape[1] - 1):
        raise PromptError(
            "a box does not fit the image",
            expected=f"x0 <= x1 <= {shape[2] - 1} and y0 <= y1 <= {shape[1] - 1}",
            found=", ".join(f"{v:g}" for v in box),
            hint="boxes are x0, y0, x1, y1 in pixels, counted from 0; MSAPredictor takes boxes on one slice",
        )


def check_labels(labels: Sequence, points: Sequence) -> None:
    """Raise a `PromptError` unless each point has one label, and that is a label."""

    def counts(nested: Sequence) -> list[list[int]]:
        return [[len(of_object) for of_object in of_image] for of_image in nested]

    try:
        is_alike = counts(labels) == counts(points)
    except TypeError:  # not nested so deep
        is_alike = False
    if not is_alike:
        raise PromptError("each point has one label", expected="input_labels nested as input_points", found=str(labels))
    if any(label not in (1, 0, PADDING) for image in labels for of_object in image for label in of_object):
        raise PromptError(
            "a point has an unknown label", expected="1 (object), 0 (ground) or -1 (no point)", found=str(labels)
        )
