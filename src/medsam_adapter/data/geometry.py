"""Every change of frame, in one place.

Three frames: **file** (voxel (i, j, k) as stored, array[k, j, i]), **source** (the file turned so that its axes point
where the model expects, array (z, y, x), points (x, y, z)) and **model** (each slice scaled to fit a square of S
pixels, padded at the right and the bottom). A point is the centre of a pixel: pixel x covers [x - 0.5, x + 0.5]. Boxes
are x0 y0 x1 y1 by their first and last pixel.
"""

from __future__ import annotations

from dataclasses import dataclass

import nibabel as nib
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from medsam_adapter.errors import DataError


def resized(images: Tensor, size_hw: tuple[int, int]) -> Tensor:
    """(N, C, H, W) float at another size, antialiased bilinear."""
    if size_hw[1] == 1 and size_hw[0] > 1:  # torch 2.13 gets columns of one pixel wrong, and rows right
        return resized(images.transpose(2, 3), size_hw[::-1]).transpose(2, 3)
    return F.interpolate(images, size_hw, mode="bilinear", antialias=True, align_corners=False)


@dataclass(frozen=True)
class Letterbox:
    """Source slice (H, W) <-> model frame (S, S).

    Attributes:
        size_hw: of the source slice in pixels.
        image_size: S.
    """

    size_hw: tuple[int, int]
    image_size: int

    @property
    def resized_hw(self) -> tuple[int, int]:
        """Size of the picture inside the model frame; the longer side is S."""
        scale = self.image_size / max(self.size_hw)
        height, width = (max(1, min(self.image_size, int(side * scale + 0.5))) for side in self.size_hw)
        return height, width

    @property
    def scale_xy(self) -> np.ndarray:
        (height, width), (new_height, new_width) = self.size_hw, self.resized_hw
        return np.array([new_width / width, new_height / height])

    def points_to_model(self, points_xy) -> np.ndarray:
        """(..., 2) pixels of the source to pixels of the model frame, float32."""
        return ((np.asarray(points_xy, np.float64) + 0.5) * self.scale_xy - 0.5).astype(np.float32)

    def points_to_source(self, points_xy) -> np.ndarray:
        """(..., 2) pixels of the model frame to pixels of the source, float32."""
        return ((np.asarray(points_xy, np.float64) + 0.5) / self.scale_xy - 0.5).astype(np.float32)

    def boxes_to_model(self, boxes_xyxy) -> np.ndarray:
        """(..., 4) in the source to (..., 4) in the model frame, float32."""
        boxes = np.asarray(boxes_xyxy, np.float64)
        return self.points_to_model(boxes.reshape(*boxes.shape[:-1], 2, 2)).reshape(boxes.shape)

    def image_to_model(self, image: Tensor, pad_value: float = 0.0) -> Tensor:
        """(N, C, H, W) float to (N, C, S, S): antialiased bilinear, then padding."""
        return self._pad(resized(image, self.resized_hw), pad_value)

    def masks_to_model(self, masks: Tensor) -> Tensor:
        """(N, C, H, W) masks in [0, 1] to (N, C, S, S): area averages, so that a small object keeps its weight."""
        height, width = self.resized_hw
        if height <= masks.shape[-2] and width <= masks.shape[-1]:
            masks = F.adaptive_avg_pool2d(masks, (height, width))
        else:
            masks = F.interpolate(masks, (height, width), mode="bilinear", align_corners=False)
        return self._pad(masks, 0.0)

    def logits_to_source(self, logits: Tensor) -> Tensor:
        """(N, C, h, w) logits of the whole model frame to (N, C, H, W) of the source, bilinear."""
        size = self.image_size
        logits = F.interpolate(logits.float(), (size, size), mode="bilinear", align_corners=False)
        height, width = self.resized_hw
        return F.interpolate(logits[..., :height, :width], self.size_hw, mode="bilinear", align_corners=False)

    def _pad(self, image: Tensor, value: float) -> Tensor:
        height, width = image.shape[-2:]
        return F.pad(image, (0, self.image_size - width, 0, self.image_size - height), value=value)


@dataclass(frozen=True)
class Turn:
    """File frame <-> source frame of a volume: axes swapped and flipped, nothing resampled.

    Attributes:
        shape_ijk: size of the file's voxel grid.
        orientation: (3, 2) nibabel orientation transform from file axes (i, j, k) to source axes (x, y, z).
    """

    shape_ijk: tuple[int, int, int]
    orientation: tuple[tuple[int, int], ...]

    @classmethod
    def to_codes(cls, affine: np.ndarray, shape_ijk: tuple[int, int, int], codes: str) -> Turn:
        """The turn that makes x, y, z point to the given sides, e.g. "LPS" (axial slices as a radiologist sees them).

        Raises:
            DataError: if the codes do not name three axes, or the affine is singular.
        """
        wanted = _axes_of(codes)
        have = nib.io_orientation(affine)
        if np.isnan(have).any():
            raise DataError("the affine is singular", expected="three independent axes", found=np.array2string(affine))
        turn = nib.orientations.ornt_transform(have, wanted)
        i, j, k = shape_ijk
        return cls((i, j, k), tuple((int(a), int(b)) for a, b in turn))

    @classmethod
    def none(cls, shape_ijk: tuple[int, int, int]) -> Turn:
        """Source frame = file frame."""
        i, j, k = shape_ijk
        return cls((i, j, k), ((0, 1), (1, 1), (2, 1)))

    def array_to_source(self, array: np.ndarray) -> np.ndarray:
        """array[k, j, i(, channel)] of the file to (z, y, x(, channel))."""
        axes = (2, 1, 0, *range(3, array.ndim))
        return nib.orientations.apply_orientation(array.transpose(axes), np.array(self.orientation)).transpose(axes)

    def array_to_file(self, array: np.ndarray) -> np.ndarray:
        """The exact way back."""
        axes = (2, 1, 0, *range(3, array.ndim))
        return nib.orientations.apply_orientation(array.transpose(axes), self._inverse()).transpose(axes)

    def spacing_to_source(self, spacing_zyx) -> tuple[float, float, float]:
        """Spacing (z, y, x) of the file to that of the source."""
        ijk, xyz = tuple(spacing_zyx)[::-1], [0.0, 0.0, 0.0]
        for axis, (target, _) in enumerate(self.orientation):
            xyz[target] = float(ijk[axis])
        x, y, z = xyz
        return z, y, x

    def points_to_source(self, points_ijk) -> np.ndarray:
        """(..., 3) voxels (i, j, k) of the file to points (x, y, z) of the source."""
        points = np.asarray(points_ijk, np.float64)
        out = np.empty_like(points)
        for axis, (target, flip) in enumerate(self.orientation):
            value = points[..., axis]
            out[..., target] = value if flip > 0 else self.shape_ijk[axis] - 1 - value
        return out

    def slice_of(self, point_ijk) -> int:
        """The slice of the source that a point (i, j, k) of the file lies on; between two slices, the nearer one."""
        return int(round(float(self.points_to_source(point_ijk)[2])))

    def points_to_file(self, points_xyz) -> np.ndarray:
        """(..., 3) points (x, y, z) of the source to voxels (i, j, k) of the file."""
        points = np.asarray(points_xyz, np.float64)
        out = np.empty_like(points)
        for axis, (target, flip) in enumerate(self.orientation):
            value = points[..., target]
            out[..., axis] = value if flip > 0 else self.shape_ijk[axis] - 1 - value
        return out

    def _inverse(self) -> np.ndarray:
        inverse = np.empty((3, 2))
        for axis, (target, flip) in enumerate(self.orientation):
            inverse[target] = axis, flip
        return inverse


def check_orientation(codes: str | None) -> None:
    """Raise a `DataError` unless this is None, "file" or the codes of three axes."""
    if codes is not None and codes != "file":
        _axes_of(codes)


def _axes_of(codes: str) -> np.ndarray:
    """(3, 2) nibabel orientation of the axes that point to these sides."""
    try:
        wanted = nib.orientations.axcodes2ornt(tuple(codes.upper()))
        if len(codes) != 3 or len(set(wanted[:, 0])) != 3:
            raise ValueError(codes)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise DataError(
            f"{codes!r} is not an orientation",
            expected='three of L/R, P/A, S/I, such as "LPS"',
            found=repr(codes),
            hint='"LPS" gives axial, "LIP" coronal, "PIL" sagittal slices',
        ) from error
    return wanted


def to_tensor(array: np.ndarray) -> Tensor:
    """A float32 tensor of any numpy array, flipped ones included."""
    return torch.from_numpy(np.ascontiguousarray(array, dtype=np.float32))
