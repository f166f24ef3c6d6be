"""Dice, IoU and HD95 of one binary mask against its reference, on the reference's own grid.

Empty masks:

| reference | prediction | Dice, IoU | HD95 | status |
|---|---|---|---|---|
| empty | empty | nan: left out of means, and counted | nan | "both_empty" |
| empty | not empty | 0 | nan: there is no surface to be far from | "false_positive" |
| not empty | empty | 0 | diagonal of the image in mm | "missed" |
| not empty | not empty | as defined | as defined | "scored" |

The diagonal for a missed target is **ours**; the paper does not say. No real HD95 is larger, so an empty prediction
never gains from being empty.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ..errors import MSAInputError

METRIC_NAMES = ("dice", "iou", "hd95_mm")


@dataclass(frozen=True)
class MaskMetrics:
    """What `mask_metrics` returns.

    Attributes:
        dice: 2 |P and R| / (|P| + |R|), 0 to 1; nan if both masks are empty.
        iou: |P and R| / |P or R|, 0 to 1; nan if both masks are empty.
        hd95_mm: the larger of the two directed 95th percentiles of surface distances; see the module for empty masks.
        prediction_voxels: |P|.
        reference_voxels: |R|.
        status: as in the module's table.
    """

    dice: float
    iou: float
    hd95_mm: float
    prediction_voxels: int
    reference_voxels: int
    status: str = "scored"


def mask_metrics(prediction: np.ndarray, reference: np.ndarray, spacing_mm: Sequence[float]) -> MaskMetrics:
    """Dice, IoU and HD95 of one target in one case.

    A volume is scored as a whole, never slice by slice. A volume of one slice is scored as a picture: in 3-D each of
    its voxels would be surface, and HD95 would measure areas in place of outlines.

    Args:
        prediction: (D, H, W) or (H, W) bool, the mask at logit 0.
        reference: bool, of the same shape.
        spacing_mm: voxel size in mm in array order, (z, y, x) or (y, x).

    Raises:
        MSAInputError: masks that are not bool or differ in shape, or a spacing that does not fit them.
    """
    prediction, reference = np.asarray(prediction), np.asarray(reference)
    spacing = _checked_spacing(prediction, reference, spacing_mm)
    diagonal_mm = float(np.linalg.norm(np.multiply(prediction.shape, spacing)))
    if prediction.ndim == 3 and prediction.shape[0] == 1:
        prediction, reference, spacing = prediction[0], reference[0], spacing[1:]

    num_prediction, num_reference = int(np.count_nonzero(prediction)), int(np.count_nonzero(reference))
    num_both = int(np.count_nonzero(prediction & reference))
    nan = float("nan")
    if not num_prediction and not num_reference:
        return MaskMetrics(nan, nan, nan, 0, 0, "both_empty")
    if not num_reference:
        return MaskMetrics(0.0, 0.0, nan, num_prediction, 0, "false_positive")
    if not num_prediction:
        return MaskMetrics(0.0, 0.0, diagonal_mm, 0, num_reference, "missed")
    return MaskMetrics(
        dice=2 * num_both / (num_prediction + num_reference),
        iou=num_both / (num_prediction + num_reference - num_both),
        hd95_mm=_hd95_mm(*_cropped_to_union(prediction, reference), spacing),
        prediction_voxels=num_prediction,
        reference_voxels=num_reference,
    )


def _checked_spacing(prediction: np.ndarray, reference: np.ndarray, spacing_mm: Sequence[float]) -> tuple[float, ...]:
    for name, mask in (("prediction", prediction), ("reference", reference)):
        if mask.dtype != bool:
            raise MSAInputError(
                f"the {name} is not a bool mask",
                expected="bool",
                found=str(mask.dtype),
                hint="threshold logits at 0; take one target of a label map with `labels == value`",
            )
    if prediction.shape != reference.shape or prediction.ndim not in (2, 3):
        raise MSAInputError(
            "prediction and reference are not on one grid",
            expected="two masks of one shape, (D, H, W) or (H, W)",
            found=f"prediction {prediction.shape}, reference {reference.shape}",
            hint="bring the prediction back onto the source grid before scoring it",
        )
    spacing = tuple(float(step) for step in spacing_mm)
    if len(spacing) != prediction.ndim or not all(np.isfinite(step) and step > 0 for step in spacing):
        raise MSAInputError(
            "the spacing does not fit the masks",
            expected=f"{prediction.ndim} positive numbers in mm, in array order",
            found=str(spacing),
        )
    return spacing


def _cropped_to_union(prediction: np.ndarray, reference: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Both masks cut to the box of their union and one voxel around it where the image has one.

    Surfaces do not change: outside the image counts as background, and so does the margin.
    """
    union = prediction | reference
    window = []
    for axis in range(union.ndim):
        used = np.flatnonzero(union.any(tuple(other for other in range(union.ndim) if other != axis)))
        window.append(slice(max(0, used[0] - 1), used[-1] + 2))
    return prediction[tuple(window)], reference[tuple(window)]


def _hd95_mm(prediction: np.ndarray, reference: np.ndarray, spacing: tuple[float, ...]) -> float:
    """HD95 of two masks that are not empty, by MONAI.

    Surface: the voxels of a mask with a face neighbour (of 4 in 2-D, 6 in 3-D) outside it; beyond the image is outside.
    Distances run between voxel centres. Percentiles interpolate linearly, for each direction alone; the larger counts.
    """
    # Here and not above: MONAI takes seconds to import, and reading stored results does not need it.
    import torch
    from monai.metrics import compute_hausdorff_distance

    pair = (torch.from_numpy(np.ascontiguousarray(mask))[None, None] for mask in (prediction, reference))
    with warnings.catch_warnings():
        # MONAI 1.6 warns of an argument that it passes to itself.
        warnings.filterwarnings("ignore", category=FutureWarning, module="monai")
        return float(compute_hausdorff_distance(*pair, include_background=True, percentile=95, spacing=list(spacing)))
