"""EnsDiff: the image is stacked on the noisy mask, and the mean of several drawn masks is the answer.

Wolleb et al. 2021, https://arxiv.org/abs/2112.03145 ("Diffusion Models for Implicit Image Segmentation Ensembles"). As
there: 1000 linear steps, all of them taken to draw, an ensemble of 5 masks, U-Net of 128 features with factors 1, 1, 2,
2, 4, 4 and attention at one sixteenth. Differs: the variance of a step is fixed (there learned). The small size takes
5 steps (DDIM).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from medsam_adapter.baselines.base import Size
from medsam_adapter.baselines.diffusion import DiffusionBaseline, make_unet
from medsam_adapter.data.patches.plan import Plan


class EnsDiffModel(nn.Module):
    """Noise of masks (B, K, h, w) at steps (B,), given images (B, C, h, w).

    Args:
        unet: arguments of `make_unet`.
    """

    def __init__(self, in_channels: int, num_targets: int, **unet: Any):
        super().__init__()
        self.num_targets = num_targets
        self.unet = make_unet(in_channels + num_targets, num_targets, **unet)

    def forward(self, masks: Tensor, steps: Tensor, images: Tensor) -> Tensor:
        return self.denoise(masks, steps, self.encode(images))

    def encode(self, images: Tensor) -> Tensor:
        """The images as they are."""
        return images

    def denoise(self, masks: Tensor, steps: Tensor, encoded: Tensor) -> Tensor:
        return self.unet(torch.cat([encoded, masks], 1), steps)


class EnsDiff(DiffusionBaseline):
    """See the head of this file."""

    name = "ensdiff"
    title = "EnsDiff"
    source = "https://arxiv.org/abs/2112.03145"
    train_steps = 1000
    samplings = {"published": (1000, 5), "small": (5, 5), "tiny": (2, 2)}
    sizes = {
        "published": Size(
            0, 256,
            {"channels": (128, 128, 256, 256, 512, 512), "attention_levels": 2, "num_heads": 1, "groups": 32},
            max_batch=10, learning_rate=1e-4,
        ),
        "small": Size(
            0, 96, {"channels": (16, 32, 32), "attention_levels": 1, "num_heads": 2, "groups": 8}, max_batch=8
        ),
        "tiny": Size(0, 32, {"channels": (8, 8), "attention_levels": 1, "num_heads": 1, "groups": 4}, max_batch=4),
    }  # fmt: skip

    def __init__(self, size: str = "published"):
        super().__init__(size)
        self.divisor = 2 ** (len(self.sizes[size].width["channels"]) - 1)

    def _network(self, plan: Plan, **width) -> nn.Module:
        return EnsDiffModel(plan.channels, len(plan.targets), **width)
