"""nnU-Net's network: MONAI's DynUNet in the topology that the plan derives from the data's fingerprint.

Isensee et al. 2021, https://doi.org/10.1038/s41592-020-01008-z. As there: 32 features at the finest resolution, doubled
at each halving up to 320 (512 in 2-D), instance norm, leaky ReLU, deep supervision at all but the two coarsest
resolutions with weights halved at each step, Dice and cross-entropy, half-overlapping Gaussian windows. Differs: AdamW
in place of SGD with momentum 0.99 (the training loop is the same for all methods), one network in place of five folds,
no mirroring at test time, no cascade, auxiliary outputs enlarged to the target (there the target is made smaller).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from medsam_adapter.baselines.base import Baseline, Size, dice_bce_loss
from medsam_adapter.data.patches.plan import Plan

MAX_FEATURES = {2: 512, 3: 320}


class NNUNet(Baseline):
    """See the head of this file."""

    name = "nnunet"
    title = "nnU-Net"
    source = "https://doi.org/10.1038/s41592-020-01008-z"
    sizes = {
        "published": Size(128, 512, {"features": 32}),
        "small": Size(48, 128, {"features": 12}, max_batch=2, learning_rate=3e-3),
        "tiny": Size(16, 32, {"features": 4}, max_batch=2),
    }

    def _network(self, plan: Plan, features: int, **width: Any) -> nn.Module:
        from monai.networks.nets import DynUNet

        strides, kernels = list(plan.strides), list(plan.kernels)
        while len(strides) < 3:  # DynUNet has at least one level between the finest and the coarsest
            strides.append((1,) * plan.spatial_dims)
            kernels.append((3,) * plan.spatial_dims)
        return DynUNet(
            plan.spatial_dims,
            plan.channels,
            len(plan.targets),
            kernels,
            strides,
            strides[1:],
            filters=[min(features * 2**level, MAX_FEATURES[plan.spatial_dims]) for level in range(len(strides))],
            deep_supervision=True,
            deep_supr_num=max(1, len(strides) - 3),
        )

    def loss(self, net: nn.Module, images: Tensor, targets: Tensor, generator: torch.Generator) -> Tensor:
        outputs = net(images).unbind(1)
        weights = [0.5**level for level in range(len(outputs))]
        losses = [weight * dice_bce_loss(out, targets) for weight, out in zip(weights, outputs, strict=True)]
        return torch.stack(losses).sum() / sum(weights)
