"""SegDiff: the noisy mask and the image are encoded apart, their features added, and a U-Net predicts the noise.

Amit et al. 2021, https://arxiv.org/abs/2112.00390. As there: residual-in-residual dense blocks for the image (12, as
its code has it for MoNuSeg), one convolution for the mask, U-Net of 128 features with factors 1, 1, 2, 2, 4, 4 and
attention at the two coarsest resolutions, 100 linear steps, all of them taken to draw, 9 masks averaged (as its code).
Differs: time is added to features (there it also scales them). The small size takes 5 steps (DDIM) and draws 3 masks.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from medsam_adapter.baselines.base import Size
from medsam_adapter.baselines.diffusion import DiffusionBaseline, make_unet
from medsam_adapter.data.patches.plan import Plan

RESIDUAL_SCALE = 0.2


class DenseBlock(nn.Module):
    """Five convolutions, each of which sees all before it (https://arxiv.org/abs/1809.00219)."""

    def __init__(self, width: int, growth: int):
        super().__init__()
        self.convs = nn.ModuleList(
            nn.Conv2d(width + number * growth, growth if number < 4 else width, 3, padding=1) for number in range(5)
        )

    def forward(self, x: Tensor) -> Tensor:
        seen = [x]
        for conv in self.convs[:-1]:
            seen.append(F.leaky_relu(conv(torch.cat(seen, 1)), 0.2))
        return x + RESIDUAL_SCALE * self.convs[-1](torch.cat(seen, 1))


class ResidualDenseBlock(nn.Module):
    """Three dense blocks within a residual."""

    def __init__(self, width: int, growth: int):
        super().__init__()
        self.blocks = nn.Sequential(*(DenseBlock(width, growth) for _ in range(3)))

    def forward(self, x: Tensor) -> Tensor:
        return x + RESIDUAL_SCALE * self.blocks(x)


class SegDiffModel(nn.Module):
    """Noise of masks (B, K, h, w) at steps (B,), given images (B, C, h, w).

    Args:
        dense_blocks, dense_width, growth: of the image's encoder.
        unet: arguments of `make_unet`.
    """

    def __init__(
        self,
        in_channels: int,
        num_targets: int,
        dense_blocks: int,
        dense_width: int,
        growth: int,
        **unet: Any,
    ):
        super().__init__()
        self.num_targets, width = num_targets, unet["channels"][0]
        self.first = nn.Conv2d(in_channels, dense_width, 3, padding=1)
        self.trunk = nn.Sequential(
            *(ResidualDenseBlock(dense_width, growth) for _ in range(dense_blocks)),
            nn.Conv2d(dense_width, dense_width, 3, padding=1),
        )
        self.last = nn.Sequential(
            nn.Conv2d(dense_width, dense_width, 3, padding=1),
            nn.LeakyReLU(0.2),
            nn.Conv2d(dense_width, width, 3, padding=1),
        )
        self.of_masks = nn.Conv2d(num_targets, width, 3, padding=1)
        self.unet = make_unet(width, num_targets, **unet)

    def forward(self, masks: Tensor, steps: Tensor, images: Tensor) -> Tensor:
        return self.denoise(masks, steps, self.encode(images))

    def encode(self, images: Tensor) -> Tensor:
        """(B, features, h, w)."""
        first = self.first(images)
        return self.last(first + self.trunk(first))

    def denoise(self, masks: Tensor, steps: Tensor, encoded: Tensor) -> Tensor:
        return self.unet(self.of_masks(masks) + encoded, steps)


class SegDiff(DiffusionBaseline):
    """See the head of this file."""

    name = "segdiff"
    title = "SegDiff"
    source = "https://arxiv.org/abs/2112.00390"
    divisor = 32
    train_steps = 100
    samplings = {"published": (100, 9), "small": (5, 3), "tiny": (2, 1)}
    sizes = {
        "published": Size(
            0, 256,
            {"dense_blocks": 12, "dense_width": 64, "growth": 32, "channels": (128, 128, 256, 256, 512, 512),
             "attention_levels": 2, "num_heads": 4, "groups": 32},
            max_batch=8, learning_rate=1e-4,
        ),
        "small": Size(
            0, 96,
            {"dense_blocks": 2, "dense_width": 16, "growth": 8, "channels": (16, 32, 32), "attention_levels": 1,
             "num_heads": 2, "groups": 8},
            max_batch=8,
        ),
        "tiny": Size(
            0, 32,
            {"dense_blocks": 1, "dense_width": 4, "growth": 2, "channels": (8, 8), "attention_levels": 1,
             "num_heads": 1, "groups": 4},
            max_batch=4,
        ),
    }  # fmt: skip

    def __init__(self, size: str = "published"):
        super().__init__(size)
        self.divisor = 2 ** (len(self.sizes[size].width["channels"]) - 1)

    def _network(self, plan: Plan, **width) -> nn.Module:
        return SegDiffModel(plan.channels, len(plan.targets), **width)
