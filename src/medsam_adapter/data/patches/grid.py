"""A case on the plan's grid and back: turned, normalised, resampled; logits back to masks in the file frame.

Shapes: C channels, K targets, D, H, W voxels of the file, d, h, w voxels on the plan's grid. Resampling is linear, and
antialiased where the grid is coarser (nnU-Net: cubic splines, nearest along a coarse axis).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from medsam_adapter.data.fingerprint import turn_of
from medsam_adapter.data.geometry import Turn, resized, to_tensor
from medsam_adapter.data.patches.plan import Plan
from medsam_adapter.data.sample import Scan
from medsam_adapter.errors import DataError


@dataclass(frozen=True)
class CaseGrid:
    """The grids of one case.

    Attributes:
        turn: file frame <-> source frame.
        source_shape: (D, H, W) after turning.
        plan_shape: (d, h, w).
    """

    turn: Turn
    source_shape: tuple[int, int, int]
    plan_shape: tuple[int, int, int]

    @classmethod
    def of(cls, scan: Scan, plan: Plan) -> CaseGrid:
        """The grids of a scan. Raises DataError for a volume where pictures are planned for, and the reverse."""
        if scan.is_volume == plan.is_picture:
            kinds = ("picture", "volume")
            raise DataError(
                "is not what the network was planned for", file=scan.path, expected=f"a {kinds[not plan.is_picture]}",
                found=f"a {kinds[scan.is_volume]}", hint="give it scans of the kind that it was trained on",
            )  # fmt: skip
        turn = turn_of(scan, plan.orientation)
        source = turn.array_to_source(scan.array).shape[:3]
        if plan.spatial_dims == 2:
            scale = min(patch / side for patch, side in zip(plan.patch_size[1:], source[1:], strict=True))
            factor = np.array([1, scale, scale])
        else:
            factor = np.array(turn.spacing_to_source(scan.spacing_mm)) / plan.spacing_mm
        z, y, x = (int(size) for size in np.maximum(1, np.round(np.array(source) * factor)))
        return cls(turn, tuple(source), (z, y, x))

    def image(self, scan: Scan, plan: Plan) -> Tensor:
        """(C, d, h, w) float32, mean 0 and standard deviation 1.

        Raises:
            DataError: a number of channels that was not planned for, or values that are not numbers.
        """
        image = normalise(channels_first(scan, plan.channels), plan)
        source = np.stack([self.turn.array_to_source(channel) for channel in image])
        return resample(to_tensor(source), self.plan_shape)

    def labels(self, labels: np.ndarray) -> Tensor:
        """(D, H, W) labels of the file to (d, h, w) int32: each voxel takes the label that fills most of it."""
        source = np.ascontiguousarray(self.turn.array_to_source(labels)).astype(np.int32)
        if self.source_shape == self.plan_shape:
            return torch.from_numpy(source)
        best = torch.full(self.plan_shape, -1.0)
        chosen = torch.zeros(self.plan_shape, dtype=torch.int32)
        for value in np.unique(source):
            share = resample(to_tensor(source == value)[None], self.plan_shape)[0]
            is_better = share > best
            best[is_better], chosen[is_better] = share[is_better], int(value)
        return chosen

    def masks_to_file(self, logits: Tensor) -> np.ndarray:
        """(K, d, h, w) logits to (K, D, H, W) bool masks in the file frame, at logit 0."""
        masks = np.empty((len(logits), *self.turn.shape_ijk[::-1]), bool)
        for number, target in enumerate(logits):  # one by one: many targets of a large volume fill the memory
            source = resample(target[None].float().cpu(), self.source_shape)[0] > 0
            masks[number] = self.turn.array_to_file(source.numpy())
        return masks


def channels_first(scan: Scan, channels: int) -> np.ndarray:
    """(C, D, H, W) float32 in the scan's own scale; grey becomes three equal channels where colours are planned for.

    Raises:
        DataError: as `CaseGrid.image`.
    """
    array = scan.array[None] if scan.array.ndim == 3 else np.moveaxis(scan.array, -1, 0)
    if len(array) != channels:
        if (len(array), channels) != (1, 3):
            raise DataError(
                "has other channels than the network was planned for", file=scan.path, expected=str(channels),
                found=str(len(array)), hint="choose the same with data.channel",
            )  # fmt: skip
        array = np.repeat(array, 3, axis=0)
    array = array.astype(np.float32)
    if not np.isfinite(array).all():
        raise DataError(
            "the scan holds values that are not numbers", file=scan.path, expected="finite intensities",
            found=f"{int((~np.isfinite(array)).sum())} NaN or infinite", hint="replace them, e.g. by the lowest value",
        )  # fmt: skip
    return array


def normalise(image: np.ndarray, plan: Plan) -> np.ndarray:
    """(C, D, H, W) to mean 0 and standard deviation 1, each channel by itself.

    CT: clipped to the percentiles and scaled by mean and standard deviation of all training cases' targets. Else by
    those of the case; outside, where all channels are 0, stays 0 if the plan ignores zeros.
    """
    if plan.is_ct:
        rows = [(each.low, each.high, each.mean, each.std) for each in plan.statistics]
        low, high, mean, std = np.array(rows, np.float32).T[:, :, None, None, None]
        return (np.clip(image, low, high) - mean) / np.maximum(std, 1e-6)
    inside = (image != 0).any(0) if plan.ignores_zeros else np.ones(image.shape[1:], bool)
    if not inside.any():
        return np.zeros_like(image)
    out = np.zeros_like(image)
    for channel, values in zip(out, image, strict=True):
        seen = values[inside]
        channel[inside] = (seen - seen.mean()) / max(float(seen.std()), 1e-6)
    return out


def resample(volume: Tensor, shape: tuple[int, int, int]) -> Tensor:
    """(C, D, H, W) float to (C, *shape), linear; corners of the two grids lie on each other."""
    depth, height, width = shape
    if volume.shape[2:] != (height, width):
        volume = resized(volume, (height, width))
    if volume.shape[1] != depth:
        volume = resized(volume.flatten(2)[None], (depth, height * width))[0].unflatten(2, (height, width))
    return volume
