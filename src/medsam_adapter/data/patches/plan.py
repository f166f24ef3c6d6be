"""From a fingerprint to a plan: grid, patch, batch, and the topology of a U-Net, by nnU-Net's published rules.

Isensee et al. 2021, https://doi.org/10.1038/s41592-020-01008-z (supplement, section 6; the public planner of version 2
fills in what the text leaves open):

- target spacing: the median of each axis; an axis that is coarser than 3 times the others and has less than a third of
  their voxels takes its 10th percentile, but is never finer than the others.
- patch: the median shape on that grid, but at most a cube in mm of 256^3 voxels (a square of 2048^2), made smaller
  along the axis that covers most of the median shape until it fits the memory.
- topology: axes within a factor 2 of the finest are halved as long as 4 voxels remain of them (an axis alone: 6);
  kernels are 3 wide once an axis is within that factor, else 1.
- batch: what fits, at most 5 % of all voxels, at least 2.

Ours: memory is counted in voxels of the patch (nnU-Net: of all feature maps); networks that need a fixed divisor get
the nearest multiples; pictures, which have no mm, and the slices of networks that are 2-D in their papers are scaled as
a whole to fit the patch, as those papers do.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from medsam_adapter.data.fingerprint import ChannelStatistics, Fingerprint

ANISOTROPY = 3.0
MIN_SIDE = 4
"""Voxels along an axis in the deepest feature map."""
REFERENCE_BATCH = {2: 12, 3: 2}
INITIAL_VOXELS = {2: 2048**2, 3: 256**3}
Axes = tuple[int, ...]


@dataclass(frozen=True)
class Plan:
    """How the cases of a data set are brought to a network.

    Attributes:
        spatial_dims: 3, or 2 for pictures and for networks that take a volume slice by slice.
        spacing_mm: (z, y, x) of the grid, where `spatial_dims` is 3; else slices are scaled to fit the patch.
        patch_size: (z, y, x) in voxels; z is 1 where `spatial_dims` is 2.
        batch_size: patches.
        channels, targets, orientation, is_picture, is_ct, statistics: as in the fingerprint.
        ignores_zeros: voxels that are exactly 0 are outside and do not count for mean and standard deviation.
        strides, kernels: of each resolution of a U-Net, from the finest; `spatial_dims` numbers each.
    """

    spatial_dims: int
    spacing_mm: tuple[float, float, float]
    patch_size: tuple[int, int, int]
    batch_size: int
    channels: int
    targets: dict[str, tuple[int, ...]]
    orientation: str
    is_picture: bool
    is_ct: bool
    statistics: tuple[ChannelStatistics, ...]
    ignores_zeros: bool
    strides: tuple[Axes, ...]
    kernels: tuple[Axes, ...]

    @property
    def network_patch(self) -> tuple[int, ...]:
        """The patch as the network sees it, (z, y, x) or (y, x)."""
        return self.patch_size[-self.spatial_dims :]

    def to_json(self) -> dict:
        return dataclasses.asdict(self)

    @classmethod
    def from_json(cls, values: Mapping) -> Plan:
        """The way back from `to_json`, also after a trip through a JSON file."""
        values = dict(values)
        for name in ("spacing_mm", "patch_size"):
            values[name] = tuple(values[name])
        for name in ("strides", "kernels"):
            values[name] = tuple(tuple(row) for row in values[name])
        values["targets"] = {name: tuple(labels) for name, labels in values["targets"].items()}
        values["statistics"] = tuple(ChannelStatistics(**each) for each in values["statistics"])
        return cls(**values)


def make_plan(
    fingerprint: Fingerprint,
    *,
    side: int,
    divisor: int | None = None,
    slicewise: bool = False,
    max_batch: int | None = None,
) -> Plan:
    """Plan for a network.

    Args:
        side: of the cube (the square in 2-D) that has as many voxels as the patch may have.
        divisor: what the network needs each side of the patch to be a multiple of; None to let the topology say.
        slicewise: take the slices of a volume as pictures.
        max_batch: upper limit of the batch.
    """
    dims = 2 if fingerprint.is_picture or slicewise else 3
    spacing = target_spacing_mm(fingerprint)
    if dims == 2:
        shape = np.array(fingerprint.median_shape, float)
        shape[1:] *= min(1.0, side / shape[1:].max())
    else:
        shape = np.median(np.array(fingerprint.shapes) * fingerprint.spacings_mm / np.array(spacing), axis=0)
    axes_mm, axes = np.array(spacing[-dims:]), np.maximum(1, np.round(shape[-dims:])).astype(int)
    patch, strides, kernels = _patch(axes_mm, axes, side**dims, divisor)
    z, y, x = [1] * (3 - dims) + patch
    voxels = math.prod(patch)
    batch = round(REFERENCE_BATCH[dims] * side**dims / voxels)
    few = round(0.05 * float(np.prod(np.round(shape))) * fingerprint.num_cases / voxels)
    batch = max(2, min(batch, few, max_batch or batch))
    return Plan(
        dims,
        spacing,
        (z, y, x),
        batch,
        fingerprint.channels,
        dict(fingerprint.targets),
        fingerprint.orientation,
        fingerprint.is_picture,
        fingerprint.is_ct,
        fingerprint.statistics,
        fingerprint.has_outside and not fingerprint.is_ct,
        strides,
        kernels,
    )


def target_spacing_mm(fingerprint: Fingerprint) -> tuple[float, float, float]:
    """(z, y, x) of the grid that all cases are resampled to."""
    spacing, shape = np.array(fingerprint.median_spacing_mm), np.array(fingerprint.median_shape)
    coarse = int(np.argmax(spacing))
    others = [axis for axis in range(3) if axis != coarse]
    if spacing[coarse] > ANISOTROPY * spacing[others].max() and shape[coarse] * ANISOTROPY < shape[others].min():
        fine = float(np.percentile(np.array(fingerprint.spacings_mm)[:, coarse], 10))
        spacing[coarse] = max(fine, spacing[others].max())
    z, y, x = (float(size) for size in spacing)
    return z, y, x


def topology(spacing_mm: ArrayLike, patch: ArrayLike) -> tuple[tuple[Axes, ...], tuple[Axes, ...]]:
    """Strides and kernels of each resolution, from the finest; the first stride is 1 everywhere."""
    spacing, size = np.array(spacing_mm, float), np.array(patch, float)
    dims = len(size)
    strides, kernels, kernel = [(1,) * dims], [], np.ones(dims, int)
    while True:
        roomy = size >= 2 * MIN_SIDE
        if not roomy.any():
            break
        halved = roomy & (spacing / spacing[roomy].min() < 2)
        if halved.sum() == 1 and size[halved][0] < 3 * MIN_SIDE:
            break
        kernel[spacing / spacing.min() < 2] = 3
        kernels.append(tuple(int(k) for k in kernel))
        strides.append(tuple(2 if h else 1 for h in halved))
        spacing[halved] *= 2
        size[halved] = np.ceil(size[halved] / 2)
    return tuple(strides), (*kernels, (3,) * dims)


def _patch(
    spacing_mm: np.ndarray, shape: np.ndarray, max_voxels: int, divisor: int | None
) -> tuple[list[int], tuple[Axes, ...], tuple[Axes, ...]]:
    """Patch, strides and kernels for cases of this spacing and median shape."""
    dims = len(shape)
    aspect = 1 / spacing_mm
    first = np.round(aspect * (INITIAL_VOXELS[dims] / aspect.prod()) ** (1 / dims)).astype(int)
    size = np.minimum(first, shape)
    floor = np.minimum(shape, 2 * MIN_SIDE)
    if divisor:
        floor = np.full(dims, divisor)
        floor[np.argmax(shape)] *= 2  # instance norm needs two voxels in the deepest feature map
        size = np.maximum(floor, np.floor(size / divisor + 0.5).astype(int) * divisor)
    else:
        size = _padded(size, spacing_mm)
    while size.prod() > max_voxels:
        steps = np.full(dims, divisor) if divisor else _divisors(spacing_mm, size)
        shrinkable = size - steps >= floor
        if not shrinkable.any():
            break
        axis = int(np.argmax(np.where(shrinkable, size / shape, -1)))
        smaller = size.copy()
        smaller[axis] -= steps[axis]
        if not divisor:  # the smaller patch may be halved less often: then a smaller step is enough
            between = size.copy()
            between[axis] -= _divisors(spacing_mm, smaller)[axis]
            smaller = min(_padded(between, spacing_mm), _padded(smaller, spacing_mm), key=lambda s: (s >= size).all())
        size = smaller
    strides, kernels = topology(spacing_mm, size)
    return [int(v) for v in size], strides, kernels


def _divisors(spacing_mm: np.ndarray, size: np.ndarray) -> np.ndarray:
    return np.prod(topology(spacing_mm, size)[0], axis=0)


def _padded(size: np.ndarray, spacing_mm: np.ndarray) -> np.ndarray:
    steps = _divisors(spacing_mm, size)
    return (np.ceil(size / steps) * steps).astype(int)
