"""How many weights an adapter has, against the formula of its figure, for the three sizes of SAM."""

from __future__ import annotations

import pytest
import torch
from transformers import SamConfig

from medsam_adapter import MSAModel
from medsam_adapter.adapters.config import MSAAdapterConfig

DECODER_WIDTH, DECODER_LAYERS = 256, 2
VITS = {"base": (768, 12, 12), "large": (1024, 24, 16), "huge": (1280, 32, 16)}  # width, blocks, heads


def bottleneck(width: int, ratio: float) -> int:
    narrow = round(width * ratio)
    return width * narrow + narrow + narrow * width + width


@pytest.mark.parametrize("use_depth", [False, True])
@pytest.mark.parametrize("ratio", [1 / 16, 0.25])
@pytest.mark.parametrize("size", VITS)
def test_trainable_parameters_are_those_of_the_figure(size, ratio, use_depth):
    width, depth, heads = VITS[size]
    vision = {"hidden_size": width, "num_hidden_layers": depth, "num_attention_heads": heads}
    with torch.device("meta"):
        model = MSAModel(SamConfig(vision_config=vision))
        model.requires_grad_(False)
        model.add_msa_adapter(MSAAdapterConfig(bottleneck_ratio=ratio, use_depth=use_depth))
    encoder = depth * (3 if use_depth else 2) * bottleneck(width, ratio)
    narrow = round(DECODER_WIDTH * ratio)
    prompts = DECODER_WIDTH * narrow + narrow  # the second down-projection, of the prompt tokens
    decoder = DECODER_LAYERS * (3 * bottleneck(DECODER_WIDTH, ratio) + prompts)
    assert model.num_parameters(only_trainable=True) == encoder + decoder
