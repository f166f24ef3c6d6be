"""e-Mix: a mixed input must look like its two sources, in proportion.

DABS: A Domain-Agnostic Benchmark for Self-Supervised Learning, https://arxiv.org/abs/2111.12062, after i-Mix,
https://arxiv.org/abs/2010.08887.

    m_i = l_i x_i + (1 - l_i) x_s(i)      x patch embeddings, s a permutation of the batch, l ~ Beta(1, 1), l >= 1/2
    z_i = norm(head(pool(encode(m_i))))   k_i = stop_gradient(norm(head(pool(encode(x_i)))))
    loss = - mean_i [ l_i log P(i | i) + (1 - l_i) log P(s(i) | i) ],  P(j | i) = softmax_j(z_i . k_j / t)

Differs from DABS: the encoder is SAM's, so that what is pooled are image embeddings, neck included, and the sources'
branch gets no gradient.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from medsam_adapter.pretraining.tokens import encode_patches, pool


def soft_target_loss(mixed: Tensor, sources: Tensor, share: Tensor, partner: Tensor, temperature: float) -> Tensor:
    """Cross-entropy over the batch with targets `share` at a row's own place and 1 - `share` at its partner's.

    Args:
        mixed: (B, d), unit length.
        sources: (B, d), unit length.
        share: (B,), the part of a mix that is its own picture.
        partner: (B,) int64, whose picture the rest is.
        temperature: t.
    """
    with torch.autocast(mixed.device.type, enabled=False):  # bf16 would round the similarities to three digits
        log_probabilities = F.log_softmax(mixed @ sources.t() / temperature, 1)
    own = log_probabilities.diagonal()
    other = log_probabilities.gather(1, partner[:, None])[:, 0]
    return -(share * own + (1 - share) * other).mean()


class EMix(nn.Module):
    """The objective and its projection head.

    Args:
        channels: E of the image embeddings.
        width: d, length of the projection.
        temperature: t.
    """

    def __init__(self, channels: int, width: int = 128, temperature: float = 0.2):
        super().__init__()
        self.temperature = temperature
        self.head = nn.Sequential(nn.Linear(channels, channels), nn.GELU(), nn.Linear(channels, width))

    def forward(
        self, vision_encoder: nn.Module, patches: Tensor, pixel_values: Tensor, generator: torch.Generator
    ) -> Tensor:
        """Loss, a scalar in float32.

        Args:
            patches: (B, g, g, C) of `embed_patches`.
            pixel_values: (B, 3, S, S), not used here.
            generator: on the CPU; draws the shares, then the permutation.
        """
        share = torch.rand(len(patches), generator=generator)  # Beta(1, 1) is the uniform distribution
        share = torch.maximum(share, 1 - share).to(patches.device)
        partner = torch.randperm(len(patches), generator=generator).to(patches.device)
        weights = share[:, None, None, None].to(patches.dtype)
        mixed = self._project(vision_encoder, weights * patches + (1 - weights) * patches[partner])
        with torch.no_grad():
            sources = self._project(vision_encoder, patches)
        return soft_target_loss(mixed, sources, share, partner, self.temperature)

    def _project(self, vision_encoder: nn.Module, patches: Tensor) -> Tensor:
        return F.normalize(self.head(pool(encode_patches(vision_encoder, patches))).float(), dim=1)
