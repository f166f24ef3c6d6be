"""What the depth branch keeps: any number of slices, no view of padding, of other positions or of other volumes."""

from __future__ import annotations

import pytest
import torch
from torch.testing import assert_close

from medsam_adapter.adapters import attention as attention_file
from medsam_adapter.adapters.attention import depth_attention
from medsam_adapter.adapters.config import MSAAdapterConfig
from medsam_adapter.adapters.vision_layer import DepthBias, volume_chunk
from medsam_adapter.modeling_msa import MSAModel

DEPTHS = (1, 2, 5, 8)
NUM_SLICES = 4
both_biases = pytest.mark.parametrize("bias", [False, True], ids=["no bias", "bias"])


@pytest.fixture
def deep(tiny_base, randomise):
    """A model with random depth adapters (and a random bias)."""

    def make(bias: bool = False):
        config = MSAAdapterConfig(
            use_depth=True, depth_bias=bias, num_slices=NUM_SLICES, bottleneck_ratio=0.25, use_decoder=False
        )
        model = MSAModel.from_base(tiny_base, config).requires_grad_(False)
        return randomise(randomise(model, std=0.2), seed=2, std=1.0, only="depth_bias")

    return make


def volume(slices: int, batch: int = 1, seed: int = 0) -> torch.Tensor:
    return torch.randn(batch, slices, 3, 64, 64, generator=torch.Generator().manual_seed(seed))


@both_biases
@pytest.mark.parametrize("slices", DEPTHS)
def test_any_number_of_slices(deep, slices, bias):
    """Also more than `num_slices`: the bias has no entry for so long a distance and takes its last."""
    out = deep(bias).encode(volume(slices, batch=2))
    assert out.shape == (2, slices, 32, 8, 8) and out.isfinite().all()


@both_biases
def test_one_slice_is_a_picture(deep, bias):
    model, pixels = deep(bias), volume(1, batch=3)
    assert torch.equal(model.encode(pixels)[:, 0], model.encode(pixels[:, 0]))


@pytest.mark.parametrize("slices", DEPTHS[1:])
def test_slices_see_each_other(deep, slices):
    model, pixels = deep(), volume(slices)
    before = model.encode(pixels)
    changed = pixels.clone()
    changed[:, -1] += 1
    moved = (model.encode(changed) - before).abs().amax((0, 2, 3, 4))
    assert (moved > 1e-4).all()
    assert (model.encode(pixels[0]) - before[0]).abs().max() > 1e-4  # without the depth branch


@both_biases
@pytest.mark.parametrize("slices", DEPTHS)
@pytest.mark.parametrize("filled", [1, 3])
def test_slices_that_fill_up_change_nothing(deep, slices, filled, bias):
    model, pixels = deep(bias), volume(slices, batch=2)
    garbage = torch.cat([pixels, 50 * volume(filled, batch=2, seed=1)], 1)
    mask = torch.arange(slices + filled)[None].expand(2, -1) < slices
    want, got = model.encode(pixels), model.encode(garbage, mask)
    assert_close(got[:, :slices], want, rtol=1e-5, atol=1e-5)
    assert got.isfinite().all()
    assert (model.encode(garbage)[:, :slices] - want).abs().max() > 1e-4  # the mask it is that keeps them out


def test_each_volume_has_its_own_mask(deep):
    model, pixels = deep(True), volume(5, batch=2)
    mask = torch.tensor([[True] * 5, [True] * 2 + [False] * 3])
    got = model.encode(pixels, mask)
    assert_close(got[0], model.encode(pixels[:1])[0], rtol=1e-5, atol=1e-5)
    assert_close(got[1, :2], model.encode(pixels[1:, :2])[0], rtol=1e-5, atol=1e-5)


@both_biases
def test_volumes_of_a_batch_do_not_see_each_other(deep, bias):
    model, pixels = deep(bias), volume(5, batch=2)
    changed = pixels.clone()
    changed[1] += 1
    assert torch.equal(model.encode(changed)[0], model.encode(pixels)[0])


def test_permuted_slices_give_permuted_outputs_without_the_bias_only(deep):
    pixels, order = volume(5), torch.tensor([3, 0, 4, 1, 2])
    plain, biased = deep(False), deep(True)
    assert_close(plain.encode(pixels[:, order]), plain.encode(pixels)[:, order], rtol=1e-4, atol=1e-5)
    assert (biased.encode(pixels[:, order]) - biased.encode(pixels)[:, order]).abs().max() > 1e-3


@both_biases
@pytest.mark.parametrize("index", [0, 1], ids=["windowed", "global"])
def test_a_position_sees_only_itself_in_other_slices(deep, index, bias):
    layer = deep(bias).vision_encoder.layers[index]
    tokens = torch.randn(4, 8, 8, 32)
    changed = tokens.clone()
    changed[1, 3, 5] += 1
    module = layer.msa_adapter_depth_bias["default"](4) if bias else None
    for run in (
        lambda t: depth_attention(layer.base_layer.attn, layer.base_layer.attn.qkv(t), 4, None, module),
        lambda t: next(layer._depth(t, None, 4, None)),
    ):
        moved = (run(changed) - run(tokens)).abs().amax(-1)
        assert (moved[:, 3, 5] > 1e-6).all()  # all four slices of the one position
        moved[:, 3, 5] = 0
        assert moved.max() < 1e-6


def test_the_depth_branch_stays_out_of_the_windows(deep):
    """A neighbour in the same window reaches a token through the space branch; the whole block minus that is clean."""
    layer = deep().vision_encoder.layers[0]
    tokens = torch.randn(2, 8, 8, 32)
    changed = tokens.clone()
    changed[1, 0, 0] = torch.randn(32)  # slice 1, first window
    moved = (layer.forward(changed, num_slices=2) - layer.forward(tokens, num_slices=2)).abs().amax(-1)
    assert (moved[1, :5, :5] > 1e-6).all() and moved[1, 5:].max() == 0 and moved[1, :, 5:].max() == 0
    assert moved[0, 0, 0] > 1e-5  # through depth
    moved[0, 0, 0] = 0
    assert moved[0].max() < 1e-6


@both_biases
@pytest.mark.parametrize("is_masked", [False, True])
def test_any_number_of_positions_is_attended_to_in_calls_of_few(deep, bias, is_masked, monkeypatch):
    layer = deep(bias).vision_encoder.layers[0]
    attention, projected = layer.base_layer.attn, layer.base_layer.attn.qkv(torch.randn(6, 8, 8, 32))
    mask = torch.tensor([[True, True, True], [True, False, True]]) if is_masked else None
    scores = layer.msa_adapter_depth_bias["default"](3) if bias else None
    want, calls = depth_attention(attention, projected, 3, mask, scores), []
    plain = torch.nn.functional.scaled_dot_product_attention
    monkeypatch.setattr(attention_file, "SEQUENCES_AT_ONCE", 50)
    monkeypatch.setattr(
        attention_file.F, "scaled_dot_product_attention", lambda q, *a, **k: calls.append(len(q)) or plain(q, *a, **k)
    )
    torch.testing.assert_close(depth_attention(attention, projected, 3, mask, scores), want)
    assert calls == [50, 50, 28]


def test_depth_attention_refuses_a_batch_that_is_no_whole_volumes(deep):
    with pytest.raises(ValueError, match="5 slices"):
        depth_attention(deep().vision_encoder.layers[0].base_layer.attn, torch.randn(5, 8, 8, 96), 2, None, None)


def test_bias_follows_the_distance_and_shares_the_last():
    bias = DepthBias(3, heads=2)
    with torch.no_grad():
        bias.weight.copy_(torch.arange(10.0).reshape(5, 2))
    table = bias(5)
    assert table.shape == (2, 5, 5)
    for i in range(5):
        for j in range(5):
            assert table[1, i, j] == bias.weight[max(-2, min(2, i - j)) + 2, 1]


def test_the_chunk_ends_with_its_context(deep):
    model, pixels = deep(), volume(4)
    alone = model.vision_encoder(pixels[0])[0]
    with pytest.raises(RuntimeError, match="inside"), volume_chunk(4):
        assert (model.vision_encoder(pixels[0])[0] - alone).abs().max() > 1e-4
        raise RuntimeError("inside")
    assert torch.equal(model.vision_encoder(pixels[0])[0], alone)
