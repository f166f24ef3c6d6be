"""SAM's image encoder in two halves, so that an objective can work on the patch embeddings between them.

Any transformers `SamVisionEncoder` will do: of a `SamModel` or an `MSAModel`, of any size, with adapters or without.

Shapes: B pictures, S side of the model frame, p side of a patch, g = S / p tokens a side, C width of the encoder, E
channels of the image embeddings.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn


def embed_patches(vision_encoder: nn.Module, pixel_values: Tensor) -> Tensor:
    """Patch embeddings before the position embedding: (B, 3, S, S) -> (B, g, g, C)."""
    return vision_encoder.patch_embed(pixel_values)


def encode_patches(vision_encoder: nn.Module, patches: Tensor) -> Tensor:
    """The rest of the encoder, its neck included: what SAM's mask decoder sees.

    `encode_patches(e, embed_patches(e, x))` is `e(x)[0]`.

    Args:
        patches: (B, g, g, C).

    Returns:
        Image embeddings (B, E, g, g).
    """
    hidden_states = patches if vision_encoder.pos_embed is None else patches + vision_encoder.pos_embed
    for layer in vision_encoder.layers:
        hidden_states = layer(hidden_states)
    return vision_encoder.neck(hidden_states)


def pool(embeddings: Tensor) -> Tensor:
    """One vector for each picture, the mean over the grid: (B, E, g, g) -> (B, E), in float32."""
    return embeddings.float().mean((-2, -1))


def random_order(batch: int, tokens: int, generator: torch.Generator, device: torch.device) -> Tensor:
    """For each picture its own random order of all tokens: (B, T), int64.

    Drawn on the CPU, so that one seed means the same on every device.
    """
    return torch.rand(batch, tokens, generator=generator).argsort(1).to(device)
