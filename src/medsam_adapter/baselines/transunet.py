"""TransUNet: a ResNet-50 down to a sixteenth, a ViT-B on what is left, a cascade of upsampling with skips.

Chen et al. 2021, https://arxiv.org/abs/2102.04306. As there: three stages of bottleneck blocks (3, 4, 9), 12 layers of
width 768 on tokens of one sixteenth, decoder of 512, 256, 128, 64 and 16 features with skips at 1/8, 1/4 and 1/2;
volumes slice by slice. The parts are MONAI's ResNet and transformers' ViT. Differs: trained from a random start (there
from ImageNet-21k), plain convolutions in place of weight-standardised ones, a class token that nobody reads.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from medsam_adapter.baselines.base import Baseline, Size
from medsam_adapter.data.patches.plan import Plan


class TransUNetModel(nn.Module):
    """The network, (B, C, h, w) -> (B, K, h, w).

    Args:
        patch_hw: h, w, multiples of 16.
        stem: features at one half; the ResNet ends with 16 times as many.
        blocks: of the three stages.
        hidden: width of the transformer.
        decoder: features at 1/16, 1/8, 1/4, 1/2 and 1.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        patch_hw: Sequence[int],
        stem: int,
        blocks: Sequence[int],
        hidden: int,
        layers: int,
        heads: int,
        decoder: Sequence[int],
    ):
        from monai.networks.nets.resnet import ResNet
        from transformers import ViTConfig, ViTModel

        super().__init__()
        self.grid_hw = tuple(side // 16 for side in patch_hw)
        group = ("group", {"num_groups": min(32, stem)})
        self.resnet = ResNet(
            "bottleneck",
            [*blocks, 1],
            [stem, 2 * stem, 4 * stem, 8 * stem],
            spatial_dims=2,
            n_input_channels=in_channels,
            conv1_t_stride=2,
            feed_forward=False,
            norm=group,
        )
        self.resnet.layer4 = nn.Identity()
        config = ViTConfig(
            hidden_size=hidden, num_hidden_layers=layers, num_attention_heads=heads, intermediate_size=4 * hidden,
            hidden_dropout_prob=0.1, image_size=self.grid_hw, patch_size=1, num_channels=16 * stem,
        )  # fmt: skip
        self.vit = ViTModel(config, add_pooling_layer=False)
        self.bridge = _conv(hidden, decoder[0])
        skips = (8 * stem, 4 * stem, stem, 0)
        self.steps = nn.ModuleList(
            nn.Sequential(_conv(before + skip, after), _conv(after, after))
            for before, skip, after in zip(decoder[:-1], skips, decoder[1:], strict=True)
        )
        self.enlarge = nn.Upsample(scale_factor=2, mode="bilinear", align_corners=False)
        self.head = nn.Conv2d(decoder[-1], out_channels, 3, padding=1)

    def forward(self, images: Tensor) -> Tensor:
        net = self.resnet
        half = net.act(net.bn1(net.conv1(images)))
        quarter = net.layer1(net.maxpool(half))
        eighth = net.layer2(quarter)
        tokens = self.vit(net.layer3(eighth)).last_hidden_state[:, 1:]
        out = self.bridge(tokens.transpose(1, 2).unflatten(2, self.grid_hw))
        for step, skip in zip(self.steps, (eighth, quarter, half, None), strict=True):
            out = self.enlarge(out)
            out = step(out if skip is None else torch.cat([out, skip], 1))
        return self.head(out)


def _conv(before: int, after: int) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(before, after, 3, padding=1, bias=False), nn.BatchNorm2d(after), nn.ReLU())


class TransUNet(Baseline):
    """See the head of this file."""

    name = "transunet"
    title = "TransUNet"
    source = "https://arxiv.org/abs/2102.04306"
    divisor = 16
    slicewise = True
    sizes = {
        "published": Size(
            0, 224,
            {"stem": 64, "blocks": (3, 4, 9), "hidden": 768, "layers": 12, "heads": 12,
             "decoder": (512, 256, 128, 64, 16)},
            max_batch=24, learning_rate=1e-4,
        ),
        "small": Size(
            0, 128,
            {"stem": 16, "blocks": (1, 1, 2), "hidden": 128, "layers": 4, "heads": 4, "decoder": (128, 64, 32, 16, 16)},
            max_batch=16,
        ),
        "tiny": Size(
            0, 32, {"stem": 4, "blocks": (1, 1, 1), "hidden": 16, "layers": 1, "heads": 2, "decoder": (8, 8, 8, 4, 4)},
            max_batch=4,
        ),
    }  # fmt: skip

    def _network(self, plan: Plan, **width) -> nn.Module:
        return TransUNetModel(plan.channels, len(plan.targets), plan.network_patch, **width)
