"""Images that are in memory already (of PIL, nibabel, torch or numpy) as a `Scan`."""

from __future__ import annotations

from typing import Any

import nibabel as nib
import numpy as np
from PIL import Image
from torch import Tensor

from ..errors import DataError
from .nifti import rgb_last
from .sample import Scan


def scan_of(image: Any, kind: str | None = None) -> Scan:
    """The image in the file frame; arguments and errors as `MSAProcessor.to_scan`."""
    if isinstance(image, Scan):
        return image
    if isinstance(image, Image.Image):
        image = np.asarray(image.convert("RGB") if image.mode in ("P", "RGBA", "CMYK", "LA", "YCbCr", "1") else image)
    if isinstance(image, nib.spatialimages.SpatialImage):
        return _scan_of_nibabel(image)
    array = image.detach().cpu().numpy() if isinstance(image, Tensor) else np.asarray(image)
    is_colour = array.ndim >= 3 and array.shape[-1] == 3
    if array.ndim == 2:
        return Scan(array[None])
    if array.ndim == 3 and kind is None and array.shape[0] == 3 and not is_colour:
        raise DataError(
            "an array of shape (3, H, W) is either three slices or a picture with its channels first",
            expected="(H, W, 3) for a picture, or kind='volume'",
            found=str(array.shape),
            hint="transpose the picture to (H, W, 3), or pass kind='volume'",
        )
    if array.ndim == 3 and kind is None and array.shape[-1] in (1, 2, 4):
        channels = array.shape[-1]
        raise DataError(
            f"an array of shape (H, W, {channels}) is either a picture with channels or a volume {channels} wide",
            expected="(H, W) or (H, W, 3) for a picture, or kind='volume'",
            found=str(array.shape),
            hint=f"take array[..., {':3' if channels == 4 else '0'}] of the picture, or pass kind='volume'",
        )
    if array.ndim == 3 and kind != "volume" and is_colour:
        return Scan(array[None])
    if array.ndim == 3 and kind != "image":
        return Scan(array)
    if array.ndim == 4 and is_colour and kind != "image":
        return Scan(array)
    raise _no_image(
        array.shape, "(H, W), (H, W, 3), (D, H, W) or (D, H, W, 3)" + (f" for kind={kind!r}" if kind else "")
    )


def _scan_of_nibabel(image: nib.spatialimages.SpatialImage) -> Scan:
    data = np.asanyarray(image.dataobj)
    data = data[..., 0] if data.ndim == 4 and data.shape[3] == 1 else data
    if data.ndim != 3:
        raise _no_image(data.shape, "a NIfTI image of three axes")
    x_mm, y_mm, z_mm = (float(size) for size in nib.affines.voxel_sizes(image.affine))
    return Scan(rgb_last(data.transpose(2, 1, 0)), (z_mm, y_mm, x_mm), np.asarray(image.affine))


def _no_image(shape: tuple[int, ...], expected: str) -> DataError:
    return DataError(
        "this is no image or volume", expected=expected, found=f"shape {tuple(shape)}", hint="check the axes"
    )
