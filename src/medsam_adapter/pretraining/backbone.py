"""A small `SamModel` that can learn from nothing.

transformers' default initialisation is meant for loading weights: it leaves a fresh `SamModel` constant for hundreds of
steps. Here Linear and convolution layers get PyTorch's own initialisation, embeddings unit variance, and the positional
encoding a scale of 1 (its default, hidden_size // 2, makes neighbouring points look unrelated).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn
from transformers import SamConfig, SamMaskDecoderConfig, SamModel, SamPromptEncoderConfig, SamVisionConfig


@dataclass
class BackboneConfig:
    """Size of a backbone trained from scratch."""

    image_size: int = 128
    """Side of the square model frame in pixels."""
    patch_size: int = 8
    """Side of a patch; image_size / patch_size tokens a side."""
    hidden_size: int = 192
    """Width of the image encoder."""
    num_layers: int = 6
    """Blocks of the image encoder; every second one attends globally."""
    num_heads: int = 6
    """Attention heads of the image encoder."""
    window_size: int = 8
    """Tokens a side of an attention window; divides the grid, so that no window is padded."""
    decoder_size: int = 128
    """Width of prompt encoder and mask decoder."""


def build_backbone(config: BackboneConfig) -> SamModel:
    """A freshly initialised `SamModel`; the caller seeds torch."""
    vision = SamVisionConfig(
        hidden_size=config.hidden_size,
        output_channels=config.decoder_size,
        num_hidden_layers=config.num_layers,
        num_attention_heads=config.num_heads,
        image_size=config.image_size,
        patch_size=config.patch_size,
        mlp_dim=4 * config.hidden_size,
        window_size=config.window_size,
        global_attn_indexes=list(range(1, config.num_layers, 2)),
        num_pos_feats=config.decoder_size // 2,
        initializer_range=0.02,
        scale=1,
    )
    prompt = SamPromptEncoderConfig(
        hidden_size=config.decoder_size, image_size=config.image_size, patch_size=config.patch_size
    )
    decoder = SamMaskDecoderConfig(
        hidden_size=config.decoder_size, mlp_dim=4 * config.decoder_size, iou_head_hidden_dim=config.decoder_size
    )
    model = SamModel(
        SamConfig(
            vision_config=vision, prompt_encoder_config=prompt, mask_decoder_config=decoder, initializer_range=0.02
        )
    )
    for module in model.modules():
        if isinstance(module, (nn.Linear, nn.Conv2d, nn.ConvTranspose2d)):
            module.reset_parameters()
        elif isinstance(module, nn.Embedding):
            nn.init.normal_(module.weight)
    nn.init.trunc_normal_(model.vision_encoder.pos_embed, std=0.02)
    with torch.no_grad():  # the two names are one tensor; make sure both see the same numbers
        positional = torch.randn_like(model.shared_image_embedding.positional_embedding)
        model.shared_image_embedding.positional_embedding.copy_(positional)
        model.prompt_encoder.shared_embedding.positional_embedding.copy_(positional)
    return model
