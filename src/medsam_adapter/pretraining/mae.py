"""MAE: the pixels of masked patches from what is round them.

Masked Autoencoders Are Scalable Vision Learners, https://arxiv.org/abs/2111.06377.

    n = round(ratio g^2) random patch embeddings of each picture are replaced by a learned mask token
    y_t = (x_t - mean(x_t)) / sqrt(var(x_t) + 1e-6)      x_t the 3 p^2 values of patch t
    loss = mean over masked t of |decoder(encode(masked))_t - y_t|^2 / (3 p^2)

Differs from MAE: masked tokens stay in the grid, as in SimMIM (https://arxiv.org/abs/2111.09886), because SAM's windows
and relative positions need a whole grid; and the decoder is convolutional, on the output of SAM's neck.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from medsam_adapter.errors import RecipeError
from medsam_adapter.pretraining.tokens import encode_patches, random_order


def normalised_patches(pixel_values: Tensor, patch_size: int) -> Tensor:
    """Pixels of each patch with mean 0 and variance 1: (B, 3, S, S) -> (B, 3 p^2, g, g), channels first in a patch.

    A patch of one value becomes zeros.
    """
    grid = pixel_values.shape[-1] // patch_size
    patches = F.unfold(pixel_values.float(), patch_size, stride=patch_size)  # (B, 3 p^2, g^2)
    variance, mean = torch.var_mean(patches, 1, correction=0, keepdim=True)
    return ((patches - mean) / (variance + 1e-6).sqrt()).unflatten(2, (grid, grid))


def masked_error(predicted: Tensor, target: Tensor, is_masked: Tensor) -> Tensor:
    """Mean squared error on the masked patches.

    Args:
        predicted, target: (B, 3 p^2, g, g).
        is_masked: (B, g, g) bool.
    """
    each = (predicted - target).square().mean(1)
    return (each * is_masked).sum() / is_masked.sum()


class _Block(nn.Module):
    """x + conv1x1(GELU(conv3x3(norm(x)))), (B, W, g, g)."""

    def __init__(self, width: int):
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.mix = nn.Conv2d(width, width, 3, padding=1)
        self.out = nn.Conv2d(width, width, 1)

    def forward(self, hidden_states: Tensor) -> Tensor:
        normed = self.norm(hidden_states.movedim(1, -1)).movedim(-1, 1)
        return hidden_states + self.out(F.gelu(self.mix(normed)))


class MAE(nn.Module):
    """The objective, its mask token and its decoder.

    Args:
        hidden_size: C of the patch embeddings.
        channels: E of the image embeddings.
        grid: g, tokens a side.
        patch_size: p in pixels.
        ratio: share of the patches that are masked, within (0, 1); at least one is, and one is not.
        width, depth: channels and blocks of the decoder.

    Raises:
        RecipeError: if a picture is a single patch.
    """

    def __init__(
        self,
        hidden_size: int,
        channels: int,
        grid: int,
        patch_size: int,
        ratio: float = 0.6,
        width: int = 128,
        depth: int = 2,
    ):
        super().__init__()
        if grid < 2:
            raise RecipeError(
                "a picture of one patch cannot be masked in part", expected="two patches a side or more", found="one",
                hint="take a larger image_size",
            )  # fmt: skip
        self.patch_size = patch_size
        self.count = min(max(round(ratio * grid * grid), 1), grid * grid - 1)
        self.mask_token = nn.Parameter(0.02 * torch.randn(hidden_size))
        self.decoder = nn.Sequential(
            nn.Conv2d(channels, width, 1),
            *(_Block(width) for _ in range(depth)),
            nn.Conv2d(width, 3 * patch_size**2, 1),
        )

    def forward(
        self, vision_encoder: nn.Module, patches: Tensor, pixel_values: Tensor, generator: torch.Generator
    ) -> Tensor:
        """Loss, a scalar in float32; arguments as in `EMix.forward`, the generator draws the masked patches."""
        batch, height, width, _ = patches.shape
        masked = random_order(batch, height * width, generator, patches.device)[:, : self.count]
        is_masked = torch.zeros(batch, height * width, dtype=torch.bool, device=patches.device)
        is_masked = is_masked.scatter(1, masked, True).view(batch, height, width)
        seen = torch.where(is_masked[..., None], self.mask_token.to(patches.dtype), patches)
        predicted = self.decoder(encode_patches(vision_encoder, seen)).float()
        return masked_error(predicted, normalised_patches(pixel_values, self.patch_size), is_masked)
