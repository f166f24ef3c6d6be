"""Paired augmentation of images and label maps at the model frame's resolution, by MONAI; one for a chunk's slices."""

from __future__ import annotations

import numpy as np
from monai.transforms import (
    Compose,
    RandAdjustContrastd,
    RandAffined,
    RandFlipd,
    RandGaussianNoised,
    RandGaussianSmoothd,
    RandScaleIntensityd,
    RandShiftIntensityd,
)
from monai.utils import convert_to_tensor
from torch import Tensor

BOTH = ("image", "label")


class Augmentation:
    """Random shift, turn, scale, shear, contrast, brightness, blur and noise.

    Args:
        image_size: side of the model frame in pixels.
        flip: also mirror along the rows, which swaps left and right where the slices' x axis is theirs.
    """

    def __init__(self, image_size: int, flip: bool = False):
        transforms = [
            RandAffined(
                BOTH,
                prob=0.9,
                rotate_range=0.26,
                shear_range=(0.08, 0.08),
                translate_range=(0.06 * image_size, 0.06 * image_size),
                scale_range=(0.15, 0.15),
                mode=["bilinear", "nearest"],
                padding_mode="zeros",
            ),
            RandAdjustContrastd("image", prob=0.5, gamma=(0.7, 1.5)),
            RandScaleIntensityd("image", prob=0.5, factors=0.15),
            RandShiftIntensityd("image", prob=0.5, offsets=0.08),
            RandGaussianSmoothd("image", prob=0.15, sigma_x=(0.4, 1.0), sigma_y=(0.4, 1.0)),
            RandGaussianNoised("image", prob=0.3, std=0.04),
        ]
        if flip:
            transforms.insert(0, RandFlipd(BOTH, prob=0.5, spatial_axis=1))
        self._compose = Compose(transforms)

    def __call__(self, image: Tensor, labels: Tensor, seed: int) -> tuple[Tensor, Tensor]:
        """image (D, C, h, w) in [0, 1], labels (D, h, w) integer -> the same shapes; the same for the same seed.

        What is given should be picture and no padding, which would be mirrored and turned into it.
        """
        slices, channels = image.shape[:2]
        self._compose.set_random_state(state=np.random.RandomState(seed % 2**32))
        out = self._compose({"image": image.flatten(0, 1), "label": labels.float()})
        moved, turned = (convert_to_tensor(out[key], track_meta=False) for key in BOTH)
        return moved.clamp(0, 1).unflatten(0, (slices, channels)), turned.round().to(labels.dtype)
