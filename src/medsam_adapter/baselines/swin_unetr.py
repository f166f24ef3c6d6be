"""Swin UNETR: windows of attention at four resolutions as the encoder of a U-Net, by MONAI, whose authors are its own.

Hatamizadeh et al. 2022, https://arxiv.org/abs/2201.01266. As there: 48 features, two layers at each resolution, windows
of 7. The published patch (128^3 for BraTS, 96^3 for BTCV) is 96^3 here. No pre-trained weights.
"""

from __future__ import annotations

from typing import Any

from torch import nn

from medsam_adapter.baselines.base import Baseline, Size
from medsam_adapter.data.patches.plan import Plan


class SwinUNETR(Baseline):
    """See the head of this file."""

    name = "swin_unetr"
    title = "Swin UNETR"
    source = "https://arxiv.org/abs/2201.01266"
    divisor = 32
    sizes = {
        "published": Size(96, 512, {"feature_size": 48}, learning_rate=4e-4),
        "small": Size(48, 128, {"feature_size": 12, "window_size": 4}, max_batch=2),
        "tiny": Size(
            32,
            32,
            {"feature_size": 12, "depths": (1, 1, 1, 1), "num_heads": (1, 1, 2, 2), "window_size": 2},
            max_batch=2,
        ),
    }

    def _network(self, plan: Plan, **width: Any) -> nn.Module:
        from monai.networks import nets

        return nets.SwinUNETR(plan.channels, len(plan.targets), spatial_dims=plan.spatial_dims, **width)
