"""TransBTS: a 3-D CNN down to an eighth, a transformer on all its voxels, and a decoder with skips.

Wang et al. 2021, https://arxiv.org/abs/2103.04430. As there: 16 features, doubled at each of three halvings, residual
blocks (1, 2, 2, 4), tokens of width 512 with learned places, 4 layers of 8 heads and an MLP of 4096, back to 128
features, upsampling by transposed convolutions. The parts are MONAI's. Differs: group norm in place of batch norm (as
the public code for one case a GPU), sigmoid in place of softmax; pictures get the same network in 2-D.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from medsam_adapter.baselines.base import Baseline, Size
from medsam_adapter.data.patches.plan import Plan

BLOCKS = (1, 2, 2, 4)


class TransBTSModel(nn.Module):
    """The network, (B, C, ...) -> (B, K, ...).

    Args:
        patch: sides, multiples of 8.
        features: at the finest resolution.
        hidden, mlp, layers, heads: of the transformer.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        patch: Sequence[int],
        features: int,
        hidden: int,
        mlp: int,
        layers: int,
        heads: int,
        dropout: float = 0.1,
    ):
        from monai.networks.blocks import Convolution, TransformerBlock
        from monai.networks.blocks.segresnet_block import ResBlock
        from monai.networks.layers import Conv

        super().__init__()
        dims = len(patch)
        self.grid = tuple(side // 8 for side in patch)
        widths = [features * 2**level for level in range(4)]
        norm = ("group", {"num_groups": min(8, features)})

        def conv(before: int, after: int, kernel: int = 3, stride: int = 1) -> nn.Module:
            return Convolution(dims, before, after, stride, kernel, conv_only=True)

        def blocks(width: int, count: int) -> list[nn.Module]:
            return [ResBlock(dims, width, norm) for _ in range(count)]

        first = [conv(in_channels, widths[0]), nn.Dropout(0.2)]
        down = [[], *([conv(a, b, stride=2)] for a, b in zip(widths[:-1], widths[1:], strict=True))]
        self.encoder = nn.ModuleList(
            nn.Sequential(*(first if not level else down[level]), *blocks(widths[level], BLOCKS[level]))
            for level in range(4)
        )
        self.to_tokens = nn.Sequential(
            nn.GroupNorm(norm[1]["num_groups"], widths[-1]), nn.ReLU(), conv(widths[-1], hidden)
        )
        self.places = nn.Parameter(torch.zeros(1, math.prod(self.grid), hidden))
        self.dropout = nn.Dropout(dropout)
        self.transformer = nn.Sequential(*(TransformerBlock(hidden, mlp, heads, dropout) for _ in range(layers)))
        self.last_norm = nn.LayerNorm(hidden)
        self.from_tokens = nn.Sequential(conv(hidden, widths[-1]), *blocks(widths[-1], 2))
        self.narrow, self.up, self.merge, self.decoder = (nn.ModuleList() for _ in range(4))
        for coarse, fine in zip(widths[:0:-1], widths[-2::-1], strict=True):
            self.narrow.append(conv(coarse, fine, kernel=1))
            self.up.append(Conv[Conv.CONVTRANS, dims](fine, fine, 2, stride=2))
            self.merge.append(conv(2 * fine, fine, kernel=1))
            self.decoder.append(nn.Sequential(*blocks(fine, 1)))
        self.head = conv(features, out_channels, kernel=1)

    def forward(self, images: Tensor) -> Tensor:
        out, skips = images, []
        for stage in self.encoder:
            out = stage(out)
            skips.append(out)
        tokens = self.to_tokens(out).flatten(2).transpose(1, 2)
        tokens = self.last_norm(self.transformer(self.dropout(tokens + self.places)))
        out = self.from_tokens(tokens.transpose(1, 2).unflatten(2, self.grid))
        steps = zip(self.narrow, self.up, self.merge, self.decoder, skips[-2::-1], strict=True)
        for narrow, up, merge, decoder, skip in steps:
            out = decoder(merge(torch.cat([skip, up(narrow(out))], 1)))
        return self.head(out)


class TransBTS(Baseline):
    """See the head of this file."""

    name = "transbts"
    title = "TransBTS"
    source = "https://arxiv.org/abs/2103.04430"
    divisor = 8
    sizes = {
        "published": Size(
            128, 512, {"features": 16, "hidden": 512, "mlp": 4096, "layers": 4, "heads": 8}, learning_rate=4e-4
        ),
        "small": Size(48, 128, {"features": 8, "hidden": 128, "mlp": 256, "layers": 2, "heads": 4}, max_batch=2),
        "tiny": Size(16, 32, {"features": 4, "hidden": 16, "mlp": 32, "layers": 1, "heads": 2}, max_batch=2),
    }

    def _network(self, plan: Plan, **width) -> nn.Module:
        return TransBTSModel(plan.channels, len(plan.targets), plan.network_patch, **width)
