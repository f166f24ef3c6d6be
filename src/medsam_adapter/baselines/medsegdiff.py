"""MedSegDiff: the image's encoder is told at every step what the current mask looks like, through a frequency filter.

Wu et al. 2022, https://arxiv.org/abs/2211.00611. As there: image and noisy mask have an encoder each; in the middle two
stages the image's features are enhanced by the mask's (`attend`, formula 3), which pass a learned filter of frequencies
first (FF-Parser, formulas 4 to 6); both are added before the last stage. Size B: U-Net of 128 features, five halvings,
100 drawing steps (DDIM) of 1000, 25 masks. Differs: two residual blocks at each stage (there as in ResNet-34), the
image's encoder is not told the step, the masks are averaged (there STAPLE). The small size takes 5 steps and draws 3
masks.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from medsam_adapter.baselines.base import Size
from medsam_adapter.baselines.diffusion import DiffusionBaseline, make_unet
from medsam_adapter.data.patches.plan import Plan


class FrequencyFilter(nn.Module):
    """FF-Parser: features (B, width, h, w) times a learned map of their spectrum; starts as no filter.

    The map belongs to one size; windows of a whole case have the size of a patch.
    """

    def __init__(self, width: int, size_hw: Sequence[int]):
        super().__init__()
        height, half = size_hw[0], size_hw[1] // 2 + 1
        self.map = nn.Parameter(torch.stack([torch.ones(width, height, half), torch.zeros(width, height, half)], -1))

    def forward(self, features: Tensor) -> Tensor:
        spectrum = torch.fft.rfft2(features.float(), norm="ortho") * torch.view_as_complex(self.map.float())
        return torch.fft.irfft2(spectrum, s=features.shape[2:], norm="ortho").to(features.dtype)


def attend(image_features: Tensor, mask_features: Tensor) -> Tensor:
    """Where both are strong, the image's features become stronger: (LN(image) * LN(mask)) * image."""
    shape = image_features.shape[1:]
    return F.layer_norm(image_features, shape) * F.layer_norm(mask_features, shape) * image_features


class MedSegDiffModel(nn.Module):
    """Noise of masks (B, K, h, w) at steps (B,), given images (B, C, h, w).

    Args:
        patch_hw: h, w.
        channels: features at each resolution, of both encoders.
        unet: further arguments of `make_unet`.
    """

    def __init__(
        self,
        in_channels: int,
        num_targets: int,
        patch_hw: Sequence[int],
        channels: Sequence[int],
        groups: int,
        **unet: int,
    ):
        from monai.networks.blocks.segresnet_block import ResBlock

        super().__init__()
        self.num_targets = num_targets
        self.unet = make_unet(num_targets, num_targets, channels=channels, groups=groups, **unet)
        norm = ("group", {"num_groups": groups})
        self.first = nn.Conv2d(in_channels, channels[0], 3, padding=1)
        self.stages = nn.ModuleList(
            nn.Sequential(
                nn.Conv2d(channels[max(0, level - 1)], width, 1), *(ResBlock(2, width, norm) for _ in range(2))
            )
            for level, width in enumerate(channels[:-1])
        )
        self.halve = nn.ModuleList(nn.Conv2d(width, width, 3, stride=2, padding=1) for width in channels[:-1])
        middle = len(channels) // 2
        self.filters = nn.ModuleDict(
            {
                str(level): FrequencyFilter(channels[level], [side >> level for side in patch_hw])
                for level in (middle - 1, middle)
                if level < len(channels) - 1
            }
        )

    def forward(self, masks: Tensor, steps: Tensor, images: Tensor) -> Tensor:
        return self.denoise(masks, steps, self.encode(images))

    def encode(self, images: Tensor) -> Tensor:
        """(B, features, h, w) before the first stage; all further ones see the masks."""
        return self.first(images)

    def denoise(self, masks: Tensor, steps: Tensor, encoded: Tensor) -> Tensor:
        from monai.networks.nets.diffusion_model_unet import get_timestep_embedding

        unet = self.unet
        time = unet.time_embed(get_timestep_embedding(steps, unet.block_out_channels[0]).to(masks.dtype))
        out, seen = unet.conv_in(masks), encoded
        skips = [out]
        for level, block in enumerate(unet.down_blocks):
            if level == len(self.stages):
                out = out + seen
            out, passed = block(hidden_states=out, temb=time)
            skips.extend(passed)
            if level < len(self.stages):
                seen = self.stages[level](seen)
                if str(level) in self.filters:
                    last = passed[unet.num_res_blocks[level] - 1]  # what the block passed on before it halved
                    seen = attend(seen, self.filters[str(level)](last))
                seen = self.halve[level](seen)
        out = unet.middle_block(hidden_states=out, temb=time)
        for block in unet.up_blocks:
            count = len(block.resnets)
            out = block(hidden_states=out, res_hidden_states_list=skips[-count:], temb=time)
            skips = skips[:-count]
        return unet.out(out)


class MedSegDiff(DiffusionBaseline):
    """See the head of this file."""

    name = "medsegdiff"
    title = "MedSegDiff"
    source = "https://arxiv.org/abs/2211.00611"
    train_steps = 1000
    samplings = {"published": (100, 25), "small": (5, 3), "tiny": (2, 2)}
    sizes = {
        "published": Size(
            0, 256,
            {"channels": (128, 128, 256, 256, 512, 512), "attention_levels": 2, "num_heads": 1, "groups": 32},
            max_batch=32, learning_rate=1e-4,
        ),
        "small": Size(
            0, 96, {"channels": (16, 32, 32), "attention_levels": 1, "num_heads": 2, "groups": 8}, max_batch=8
        ),
        "tiny": Size(0, 32, {"channels": (8, 8, 8), "attention_levels": 1, "num_heads": 1, "groups": 4}, max_batch=4),
    }  # fmt: skip

    def __init__(self, size: str = "published"):
        super().__init__(size)
        self.divisor = 2 ** (len(self.sizes[size].width["channels"]) - 1)

    def _network(self, plan: Plan, **width) -> nn.Module:
        return MedSegDiffModel(plan.channels, len(plan.targets), plan.network_patch, **width)
