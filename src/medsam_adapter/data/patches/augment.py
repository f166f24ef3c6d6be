"""Augmentation of patches, by MONAI: what nnU-Net does to its patches, with its probabilities.

Isensee et al. 2021, https://doi.org/10.1038/s41592-020-01008-z, supplement, section 4. Ours: turns of 15 degrees (there
30, of larger patches that leave no empty corners), out of the plane only where voxels are about as deep as wide, and
mirroring only if the recipe says so, and only of left and right: an organ has a side.
"""

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
    RandSimulateLowResolutiond,
    Transform,
)
from monai.utils import convert_to_tensor
from torch import Tensor

from medsam_adapter.data.patches.plan import Plan

BOTH = ("image", "label")
TURN_RADIANS = 0.26
NEARLY_CUBIC = 1.5


class PatchAugmentation:
    """Random turn, scale, noise, blur, brightness, contrast, resolution and gamma.

    Args:
        plan: says in how many axes patches may be turned.
        flip: also mirror left and right.
    """

    def __init__(self, plan: Plan, flip: bool = False):
        dims, spacing = plan.spatial_dims, plan.spacing_mm
        tilt = TURN_RADIANS if max(spacing) / min(spacing) < NEARLY_CUBIC else 0.0
        turn = TURN_RADIANS if dims == 2 else (TURN_RADIANS, tilt, tilt)  # the first turns within slices
        pair, enlarged = ["bilinear", "nearest"], "trilinear" if dims == 3 else "bilinear"
        affine = {"keys": BOTH, "mode": pair, "padding_mode": "zeros"}
        transforms: list[Transform] = [
            RandAffined(prob=0.2, rotate_range=turn, **affine),
            RandAffined(prob=0.2, scale_range=[(-0.3, 0.4)] * dims, **affine),
            RandGaussianNoised("image", prob=0.15, std=0.3),
            RandGaussianSmoothd("image", prob=0.2, sigma_x=(0.5, 1.0), sigma_y=(0.5, 1.0), sigma_z=(0.5, 1.0)),
            RandScaleIntensityd("image", prob=0.15, factors=0.25),
            RandSimulateLowResolutiond("image", prob=0.25, upsample_mode=enlarged, zoom_range=(0.5, 1.0)),
            RandAdjustContrastd("image", prob=0.3, gamma=(0.7, 1.5), retain_stats=True),
        ]
        if flip:
            transforms.insert(0, RandFlipd(BOTH, prob=0.5, spatial_axis=dims - 1))
        self._compose = Compose(transforms)

    def __call__(self, image: Tensor, labels: Tensor, seed: int) -> tuple[Tensor, Tensor]:
        """image (C, d, h, w) or (C, h, w), labels integer without C -> the same shapes; the same for the same seed."""
        self._compose.set_random_state(state=np.random.RandomState(seed % 2**32))
        out = self._compose({"image": image, "label": labels[None].float()})
        moved, turned = (convert_to_tensor(out[key], track_meta=False) for key in BOTH)
        return moved, turned[0].round().to(labels.dtype)
