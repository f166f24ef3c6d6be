"""Which part of an encoder never changes, and that going on from it gives the same embeddings."""

from __future__ import annotations

import pytest
import torch

from medsam_adapter.adapters.config import MSAAdapterConfig
from medsam_adapter.frozen_features import frozen_features, has_frozen_embeddings, num_frozen_blocks
from medsam_adapter.modeling_msa import MSAModel

PLACES = [
    pytest.param({"use_encoder": False}, 3, (32, 8, 8), id="decoder only"),
    pytest.param({"encoder_layers": [2]}, 2, (8, 8, 32), id="last block"),
    pytest.param({"encoder_layers": [1, 2]}, 1, (8, 8, 32), id="last two blocks"),
    pytest.param({}, 0, (8, 8, 32), id="all blocks"),
]


@pytest.mark.parametrize("use_depth", [False, True])
@pytest.mark.parametrize(("place", "blocks", "shape"), PLACES)
def test_going_on_from_frozen_features(tiny_base, randomise, place, blocks, shape, use_depth):
    config = MSAAdapterConfig(use_depth=use_depth, num_slices=3, bottleneck_ratio=0.25, **place)
    model = randomise(MSAModel.from_base(tiny_base, config))
    assert num_frozen_blocks(model) == blocks and has_frozen_embeddings(model) == (blocks == 3)
    pixels = torch.randn(2, 3, 3, 64, 64)
    mask = torch.tensor([[True] * 3, [True, True, False]])
    features = frozen_features(model, pixels.flatten(0, 1)).unflatten(0, (2, 3))
    assert features.shape == (2, 3, *shape) and not features.requires_grad
    torch.testing.assert_close(model.encode(frozen=features, slice_mask=mask), model.encode(pixels, mask))
    torch.testing.assert_close(model.encode(frozen=features[:, 0]), model.encode(pixels[:, 0]))


def test_trained_weights_are_not_frozen(tiny_base):
    model = MSAModel.from_base(tiny_base)
    assert num_frozen_blocks(model) == 3 and has_frozen_embeddings(model)
    model.vision_encoder.neck.requires_grad_(True)
    assert num_frozen_blocks(model) == 3 and not has_frozen_embeddings(model)
    model.vision_encoder.layers[1].mlp.requires_grad_(True)
    assert num_frozen_blocks(model) == 1
    model.vision_encoder.pos_embed.requires_grad_(True)
    assert num_frozen_blocks(model) == 0


def test_an_adapter_that_is_off_leaves_its_block_frozen(tiny_base):
    model = MSAModel.from_base(tiny_base, MSAAdapterConfig()).requires_grad_(False)
    assert num_frozen_blocks(model) == 0
    model.disable_adapters()
    assert num_frozen_blocks(model) == 3


def test_gradients_from_kept_features_are_those_from_pixels(tiny_base, randomise):
    model = randomise(MSAModel.from_base(tiny_base, MSAAdapterConfig(encoder_layers=[2], use_decoder=False)))
    pixels, gradients = torch.randn(2, 3, 64, 64), []
    weights = torch.randn(2, 32, 8, 8)
    for inputs in ({"pixel_values": pixels}, {"frozen": frozen_features(model, pixels)}):
        model.zero_grad()
        (model.encode(**inputs) * weights).sum().backward()
        gradients.append({n: p.grad for n, p in model.named_parameters() if p.grad is not None})
    assert gradients[0].keys() == gradients[1].keys() and gradients[0]
    for name, want in gradients[0].items():
        torch.testing.assert_close(gradients[1][name], want, rtol=1e-3, atol=1e-5)
