"""The prompts of a batch of images, from pixels of the sources to tensors in the model frame.

Shapes: B images or volumes, D slices, P objects, K points.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from medsam_adapter.data.geometry import Letterbox
from medsam_adapter.errors import PromptError
from medsam_adapter.prompts.checks import check_box, check_labels, check_point
from medsam_adapter.prompts.clicks import PADDING


def batched_points(
    points: Sequence,
    labels: Sequence | None,
    shapes_zyx: Sequence[tuple[int, ...]],
    letterboxes: Sequence[Letterbox],
    depth: int | None,
) -> tuple[Tensor, Tensor]:
    """Points (B, P, K, 2) with labels (B, P, K), or (B, D, P, K, 2) with (B, D, P, K); filled up with label -1.

    Args:
        points: [image][object][point] (x, y), for volumes (x, y, z), in pixels of the source.
        labels: nested alike; all 1 if None.
        shapes_zyx: of the sources, (D, H, W) or (D, H, W, 3).
        depth: D of the batch; None for pictures.

    Raises:
        PromptError: no point at all, one outside its image, or labels that do not fit the points.
    """
    _check_length("input_points", points, shapes_zyx)
    objects, most = max(len(p) for p in points), max((len(k) for p in points for k in p), default=0)
    if not most:
        raise PromptError("input_points holds no point", expected="[image][object][point]", found=str(points))
    if labels is not None:
        check_labels(labels, points)
    lead = (len(points), objects) if depth is None else (len(points), depth, objects)
    out = np.zeros((*lead, most, 2), np.float32)
    out_labels = np.full((*lead, most), PADDING, np.int64)
    for b, image_points in enumerate(points):
        for p, object_points in enumerate(image_points):
            for k, point in enumerate(object_points):
                label = 1 if labels is None else int(labels[b][p][k])
                check_point(point, shapes_zyx[b], depth is not None)
                at = (b, p, k) if depth is None else (b, int(round(point[2])), p, k)
                out[at], out_labels[at] = letterboxes[b].points_to_model(point[:2]), label
    return torch.from_numpy(out), torch.from_numpy(out_labels)


def batched_boxes(
    boxes: Sequence, shapes_zyx: Sequence[tuple[int, ...]], letterboxes: Sequence[Letterbox], depth: int | None
) -> Tensor:
    """Boxes (B, P, 4), or (B, D, P, 4) with each box on every slice.

    Args:
        boxes: [image][object] x0 y0 x1 y1 in pixels of the source.
        shapes_zyx, depth: as `batched_points`.

    Raises:
        PromptError: a box outside its image, or more of them for one image than for another.
    """
    _check_length("input_boxes", boxes, shapes_zyx)
    if len({len(image_boxes) for image_boxes in boxes}) != 1 or not len(boxes[0]):
        raise PromptError(
            "each image of a batch has as many boxes as the others", expected=f"{len(boxes[0]) or 1} each",
            found=", ".join(str(len(image_boxes)) for image_boxes in boxes),
            hint="SAM has no empty box to fill up with",
        )  # fmt: skip
    rows = []
    for shape, letterbox, image_boxes in zip(shapes_zyx, letterboxes, boxes, strict=True):
        for box in image_boxes:
            check_box(box, shape)
        rows.append(torch.from_numpy(letterbox.boxes_to_model(np.asarray(image_boxes))))
    stacked = torch.stack(rows)
    return stacked if depth is None else stacked[:, None].expand(-1, depth, -1, -1).clone()


def _check_length(name: str, given: Sequence, shapes_zyx: Sequence) -> None:
    if len(given) != len(shapes_zyx):
        raise PromptError(f"{name} has one entry for each image", expected=str(len(shapes_zyx)), found=str(len(given)))
