"""ShED, shuffled embedding detection: which tokens of a picture stand where they do not belong?

DABS: A Domain-Agnostic Benchmark for Self-Supervised Learning, https://arxiv.org/abs/2111.12062.

    n = round(fraction g^2) random tokens of each picture change places in one random cycle, so that none stays
    loss = mean over tokens of BCE(sigmoid(w . encode(shuffled)_t + b), [token t was moved])

Differs from DABS: a token that came to where an equal one was (empty background) counts as not moved, since nobody
could tell.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from medsam_adapter.errors import RecipeError
from medsam_adapter.pretraining.tokens import encode_patches, random_order


def shuffle_tokens(patches: Tensor, count: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Let `count` tokens of each picture change places.

    Args:
        patches: (B, g, g, C).

    Returns:
        The shuffled patches (B, g, g, C) and which tokens are others than before, (B, g, g) bool.
    """
    batch, height, width, channels = patches.shape
    tokens = patches.flatten(1, 2)
    places = random_order(batch, height * width, generator, patches.device)[:, :count]
    places = places[..., None].expand(-1, -1, channels)
    moved = tokens.gather(1, places.roll(1, 1))  # a cycle through places in random order: nobody keeps his own
    shuffled = tokens.scatter(1, places, moved)
    is_moved = (shuffled.detach() != tokens.detach()).any(-1)
    return shuffled.view_as(patches), is_moved.view(batch, height, width)


class ShED(nn.Module):
    """The objective and its classifier.

    Args:
        channels: E of the image embeddings.
        grid: g, tokens a side.
        fraction: share of the tokens that are shuffled.

    Raises:
        RecipeError: if the fraction selects fewer than two tokens: one cannot be shuffled.
    """

    def __init__(self, channels: int, grid: int, fraction: float = 0.15):
        super().__init__()
        self.count = round(fraction * grid * grid)
        if self.count < 2:
            raise RecipeError(
                "shuffle_fraction selects too few tokens to shuffle", expected="at least 2 tokens of a picture",
                found=f"{self.count} of {grid} x {grid}",
                hint=f"take a larger fraction than {2 / grid**2:.3g}, or a larger image_size",
            )  # fmt: skip
        self.head = nn.Linear(channels, 1)

    def forward(
        self, vision_encoder: nn.Module, patches: Tensor, pixel_values: Tensor, generator: torch.Generator
    ) -> Tensor:
        """Loss, a scalar in float32; arguments as in `EMix.forward`, the generator draws the tokens."""
        shuffled, is_moved = shuffle_tokens(patches, self.count, generator)
        embeddings = encode_patches(vision_encoder, shuffled)  # (B, E, g, g)
        logits = self.head(embeddings.movedim(1, -1))[..., 0]
        return F.binary_cross_entropy_with_logits(logits.float(), is_moved.float())
