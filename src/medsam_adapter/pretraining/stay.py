"""Stay: do not walk away from the language that SAM's frozen mask decoder understands.

Not in the paper, and off by default. The decoder is not trained along, so the image embeddings z of a picture must not
go far from those t of the encoder that training started from:

    loss = mean |z - t|^2 / mean |t - m|^2,   m the mean of t over the batch and the grid, for each channel

0 at the start, 1 if all that tells pictures and places apart is lost.
"""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

from medsam_adapter.pretraining.tokens import encode_patches


def relative_distance(embeddings: Tensor, teacher: Tensor) -> Tensor:
    """Squared distance of two sets of image embeddings (B, E, g, g), relative to the variance of the second."""
    embeddings, teacher = embeddings.float(), teacher.float()
    variance = teacher.var((0, 2, 3), correction=0).mean()
    return (embeddings - teacher).square().mean() / variance.clamp_min(1e-12)


class Stay(nn.Module):
    """The objective and its frozen copy of an encoder.

    Args:
        vision_encoder: the starting encoder; it is copied, since training will change it.
    """

    def __init__(self, vision_encoder: nn.Module):
        super().__init__()
        self.teacher = copy.deepcopy(vision_encoder).requires_grad_(False).eval()

    def train(self, mode: bool = True) -> Stay:
        """The teacher never leaves evaluation mode."""
        super().train(mode)
        self.teacher.eval()
        return self

    def forward(
        self, vision_encoder: nn.Module, patches: Tensor, pixel_values: Tensor, generator: torch.Generator
    ) -> Tensor:
        """Loss, a scalar in float32; arguments as in `EMix.forward`, nothing is drawn."""
        with torch.no_grad():
            teacher = self.teacher(pixel_values)[0]
        return relative_distance(encode_patches(vision_encoder, patches), teacher)
