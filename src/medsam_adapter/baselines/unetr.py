"""UNETR: a vision transformer as the encoder of a U-Net, by MONAI, whose authors are UNETR's.

Hatamizadeh et al. 2022, https://arxiv.org/abs/2103.10504. As there: ViT-B (12 layers, width 768, patches of 16), 16
features, patches of 96^3. The small size is narrower; MONAI fixes the 12 layers.
"""

from __future__ import annotations

from typing import Any

from torch import nn

from medsam_adapter.baselines.base import Baseline, Size
from medsam_adapter.data.patches.plan import Plan


class UNETR(Baseline):
    """See the head of this file."""

    name = "unetr"
    title = "UNETR"
    source = "https://arxiv.org/abs/2103.10504"
    divisor = 16
    sizes = {
        "published": Size(
            96, 512, {"hidden_size": 768, "mlp_dim": 3072, "num_heads": 12, "feature_size": 16}, learning_rate=1e-4
        ),
        "small": Size(48, 128, {"hidden_size": 192, "mlp_dim": 768, "num_heads": 6, "feature_size": 8}, max_batch=2),
        "tiny": Size(16, 32, {"hidden_size": 24, "mlp_dim": 48, "num_heads": 2, "feature_size": 4}, max_batch=2),
    }

    def _network(self, plan: Plan, **width: Any) -> nn.Module:
        from monai.networks import nets

        return nets.UNETR(plan.channels, len(plan.targets), plan.network_patch, spatial_dims=plan.spatial_dims, **width)
