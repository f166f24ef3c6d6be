"""MedNeXt: a U-Net of ConvNeXt blocks, by MONAI.

Roy et al. 2023, https://arxiv.org/abs/2303.09975. Published here is its L with kernels of 3 (62 M parameters), small is
its S with half the features. As there: deep supervision at all resolutions with weights halved at each step, AdamW.
Differs: kernels of 5 are not grown from those of 3.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from medsam_adapter.baselines.base import Baseline, Size, dice_bce_loss
from medsam_adapter.data.patches.plan import Plan

LARGE = {
    "init_filters": 32,
    "encoder_expansion_ratio": (3, 4, 8, 8),
    "decoder_expansion_ratio": (8, 8, 4, 3),
    "bottleneck_expansion_ratio": 8,
    "blocks_down": (3, 4, 8, 8),
    "blocks_bottleneck": 8,
    "blocks_up": (8, 8, 4, 3),
}
TINY = {"init_filters": 4, "blocks_down": (1, 1, 1, 1), "blocks_bottleneck": 1, "blocks_up": (1, 1, 1, 1)}


class MedNeXt(Baseline):
    """See the head of this file."""

    name = "mednext"
    title = "MedNeXt"
    source = "https://arxiv.org/abs/2303.09975"
    divisor = 16
    sizes = {
        "published": Size(128, 512, LARGE),
        "small": Size(48, 128, {"init_filters": 16}, max_batch=2),
        "tiny": Size(16, 32, TINY, max_batch=2),
    }

    def _network(self, plan: Plan, **width: Any) -> nn.Module:
        from monai.networks import nets

        return nets.MedNeXt(
            plan.spatial_dims,
            in_channels=plan.channels,
            out_channels=len(plan.targets),
            kernel_size=3,
            deep_supervision=True,
            use_residual_connection=True,
            **width,
        )

    def loss(self, net: nn.Module, images: Tensor, targets: Tensor, generator: torch.Generator) -> Tensor:
        outputs = net(images)
        weights = [0.5**level for level in range(len(outputs))]
        losses = []
        for weight, out in zip(weights, outputs, strict=True):  # each at its own resolution
            smaller = F.interpolate(targets, out.shape[2:], mode="nearest-exact")
            losses.append(weight * dice_bce_loss(out, smaller))
        return torch.stack(losses).sum() / sum(weights)
