"""The part of an encoder that training cannot change: its output can be computed once and kept.

With adapters in the decoder only that is the whole image encoder; with adapters in the last k blocks it is everything
below them. Slices of a volume do not see each other there (only the depth branch of an adapter lets them), so features
are made slice by slice.

Shapes: N images or slices, S side of the model frame, (g, g) tokens, C width of the encoder, E of the embeddings.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from transformers import SamModel

from medsam_adapter.adapters.layer import MSALayer


def num_frozen_blocks(model: SamModel) -> int:
    """Number of leading encoder blocks without an active adapter and without a weight that is trained.

    All of them, and the neck frozen, means that the image embeddings themselves never change.
    """
    encoder = model.vision_encoder
    trained_below = encoder.pos_embed is not None and encoder.pos_embed.requires_grad
    if trained_below or _is_trained(encoder.patch_embed):
        return 0
    for number, layer in enumerate(encoder.layers):
        has_adapter = isinstance(layer, MSALayer) and not layer.is_plain
        if has_adapter or _is_trained(layer):
            return number
    return len(encoder.layers)


def has_frozen_embeddings(model: SamModel) -> bool:
    """Whether the whole image encoder is frozen."""
    return num_frozen_blocks(model) == len(model.vision_encoder.layers) and not _is_trained(model.vision_encoder.neck)


@torch.no_grad()
def frozen_features(model: SamModel, pixel_values: Tensor) -> Tensor:
    """What `finish_encoding` goes on from.

    Args:
        pixel_values: (N, 3, S, S).

    Returns:
        Tokens (N, g, g, C), or image embeddings (N, E, g, g) if the whole encoder is frozen.
    """
    encoder = model.vision_encoder
    pixel_values = pixel_values.to(encoder.patch_embed.projection.weight.dtype)
    if has_frozen_embeddings(model):
        return encoder(pixel_values)[0]
    hidden_states = encoder.patch_embed(pixel_values)
    if encoder.pos_embed is not None:
        hidden_states = hidden_states + encoder.pos_embed
    for layer in encoder.layers[: num_frozen_blocks(model)]:
        hidden_states = layer(hidden_states)
    return hidden_states.contiguous()


def finish_encoding(model: SamModel, features: Tensor) -> Tensor:
    """From `frozen_features` of the same model to image embeddings (N, E, g, g), with gradients."""
    if has_frozen_embeddings(model):
        return features
    for layer in model.vision_encoder.layers[num_frozen_blocks(model) :]:
        features = layer(features)
    return model.vision_encoder.neck(features)


def _is_trained(module: nn.Module) -> bool:
    return any(parameter.requires_grad for parameter in module.parameters())
