"""What segmentation by diffusion has in common: masks of -1 and 1 are noised, a U-Net that sees the image predicts the
noise, masks are drawn from noise step by step and averaged. MONAI's DiffusionModelUNet and schedulers do the work.

Ho et al. 2020, https://arxiv.org/abs/2006.11239 (training and DDPM sampling), Song et al. 2020,
https://arxiv.org/abs/2010.02502 (DDIM, where fewer steps than in training are taken). The K targets are denoised
together as K channels (the papers have one target). All work on pictures and on slices of volumes, as in their papers.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from medsam_adapter.baselines.base import Baseline

LOWEST_SHARE = 1e-4


class DiffusionBaseline(Baseline):
    """A `Baseline` whose network is called as net(noisy masks, steps, images) and answers with the noise.

    It has `num_targets`, `encode(images)`, what it makes of images whatever the step, and `denoise(noisy masks, steps,
    encoded images)`.

    Attributes:
        train_steps: T of the noise schedule.
        samplings: {size: (steps that are taken, masks that are drawn and averaged)}.
    """

    slicewise = True
    train_steps: ClassVar[int]
    samplings: ClassVar[dict[str, tuple[int, int]]]

    def loss(self, net: nn.Module, images: Tensor, targets: Tensor, generator: torch.Generator) -> Tensor:
        """Mean squared error of the noise at a random step."""
        from monai.networks.schedulers import DDPMScheduler

        clean = 2 * targets - 1
        noise = torch.randn(clean.shape, generator=generator).to(clean)
        steps = torch.randint(self.train_steps, (len(clean),), generator=generator).to(clean.device)
        noisy = DDPMScheduler(self.train_steps).add_noise(clean, noise, steps)
        return F.mse_loss(net(noisy, steps, images), noise)

    def window_logits(self, net: nn.Module, images: Tensor, generator: torch.Generator) -> Tensor:
        """Logits of the mean of the drawn masks."""
        num_steps, num_masks = self.samplings[self.size]
        masks = self._draw(net, net.encode(images).repeat_interleave(num_masks, 0), num_steps, generator)
        share = (masks.unflatten(0, (len(images), num_masks)).mean(1) + 1) / 2
        return torch.logit(share.clamp(LOWEST_SHARE, 1 - LOWEST_SHARE))

    def _draw(self, net: nn.Module, encoded: Tensor, num_steps: int, generator: torch.Generator) -> Tensor:
        """(B, K, h, w) masks in [-1, 1], one for each encoded image."""
        from monai.networks.schedulers import DDIMScheduler, DDPMScheduler

        # Random numbers come from the CPU, so that every device draws the same masks.
        def noise(like: Tensor) -> Tensor:
            return torch.randn(like.shape, generator=generator).to(like)

        masks = noise(encoded.new_empty(len(encoded), net.num_targets, *encoded.shape[2:]))
        takes_all = num_steps == self.train_steps
        scheduler = (DDPMScheduler if takes_all else DDIMScheduler)(self.train_steps)
        scheduler.set_timesteps(num_steps)
        for step in scheduler.timesteps.tolist():
            predicted = net.denoise(masks, torch.full((len(masks),), step, device=masks.device), encoded)
            if takes_all:  # MONAI's step would draw on the device
                mean = self._posterior_mean(scheduler, predicted, step, masks)
                masks = mean + scheduler._get_variance(step) ** 0.5 * noise(masks) if step else mean
            else:
                masks, _ = scheduler.step(predicted, step, masks)
        return masks

    @staticmethod
    def _posterior_mean(scheduler, predicted: Tensor, step: int, masks: Tensor) -> Tensor:
        """Mean of the masks one step earlier (Ho et al., formula 7), the clean masks clipped to [-1, 1]."""
        kept = scheduler.alphas_cumprod[step]
        clean = ((masks - (1 - kept) ** 0.5 * predicted) / kept**0.5).clamp(-1, 1)
        return scheduler._get_mean(step, clean, masks)


def make_unet(
    in_channels: int, out_channels: int, channels: Sequence[int], attention_levels: int, num_heads: int, groups: int
) -> nn.Module:
    """MONAI's diffusion U-Net in 2-D with two residual blocks at each resolution.

    Args:
        attention_levels: number of the coarsest resolutions with attention.
        groups: of the group norms.
    """
    from monai.networks.nets import DiffusionModelUNet

    attention = [level >= len(channels) - attention_levels for level in range(len(channels))]
    return DiffusionModelUNet(
        2,
        in_channels,
        out_channels,
        num_res_blocks=2,
        channels=channels,
        attention_levels=attention,
        norm_num_groups=groups,
        num_head_channels=[width // num_heads for width in channels],
    )
