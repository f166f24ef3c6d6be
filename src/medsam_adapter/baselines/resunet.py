"""Residual U-Net: MONAI's `UNet` with two residual units at each of five resolutions.

Kerfoot et al. 2019, https://doi.org/10.1007/978-3-030-12029-0_40, whose network MONAI's is. The "ResUnet" of the
paper's tables (Yu et al. 2019, for discs and cups) is another one, with a ResNet as encoder.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn

from medsam_adapter.baselines.base import Baseline, Size
from medsam_adapter.data.patches.plan import Plan


class ResUNet(Baseline):
    """See the head of this file."""

    name = "resunet"
    title = "ResUNet"
    source = "https://doi.org/10.1007/978-3-030-12029-0_40"
    divisor = 16
    sizes = {
        "published": Size(96, 512, {"channels": (16, 32, 64, 128, 256), "num_res_units": 2}),
        "small": Size(48, 128, {"channels": (8, 16, 32, 64, 128), "num_res_units": 2}, max_batch=2),
        "tiny": Size(16, 32, {"channels": (4, 4, 8, 8, 8), "num_res_units": 1}, max_batch=2),
    }

    def _network(self, plan: Plan, channels: Sequence[int], num_res_units: int) -> nn.Module:
        from monai.networks.nets import UNet

        return UNet(
            plan.spatial_dims,
            plan.channels,
            len(plan.targets),
            channels,
            strides=(2,) * (len(channels) - 1),
            num_res_units=num_res_units,
        )
