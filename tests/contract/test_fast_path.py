"""The fast path gives what transformers' code gives: forward, backward, every grid, both types, with and without
adapters."""

from __future__ import annotations

import contextlib
import copy
import pickle

import pytest
import torch
from torch import nn
from transformers import SamModel, SamVisionConfig
from transformers.models.sam.modeling_sam import SamVisionLayer, SamVisionSdpaAttention

from medsam_adapter.adapters import attention as fast
from medsam_adapter.adapters import linear as products
from medsam_adapter.adapters import tiled_attention, windows
from medsam_adapter.adapters.config import MSAAdapterConfig
from medsam_adapter.adapters.fast_layer import FastVisionLayer, plain_attention
from medsam_adapter.modeling_msa import MSAModel
from medsam_adapter.native import library as native

# grid, window: padded on both sides, not padded, one window larger than the grid, global, global beyond the features
GRIDS = [(8, 5), (16, 14), (9, 3), (6, 14), (8, 0), (40, 0)]
every_grid = pytest.mark.parametrize(("grid", "window"), GRIDS)
ROUTES = ["tiled", "small tiles", "fused"]


def make_block(grid: int, window: int, dtype=torch.float32, std: float = 0.3) -> SamVisionLayer:
    config = SamVisionConfig(
        hidden_size=32, num_attention_heads=2, image_size=8 * grid, patch_size=8, window_size=window or 14, mlp_dim=64
    )
    config._attn_implementation = "sdpa"
    block = SamVisionLayer(config, window)
    for parameter in block.parameters():
        nn.init.normal_(parameter, std=std)
    return block.to(dtype)


def reference(block: SamVisionLayer, tokens: torch.Tensor) -> torch.Tensor:
    """transformers' attention of a block before the output projection."""
    attention = copy.copy(block.attn)
    attention._modules = {**attention._modules, "proj": nn.Identity()}
    if not block.window_size:
        return attention(hidden_states=tokens)[0]
    parts, padded = block.window_partition(tokens, block.window_size)
    mixed = attention(hidden_states=parts)[0]
    return block.window_unpartition(mixed, block.window_size, padded, tokens.shape[1:3])


def through(route: str, block: SamVisionLayer, tokens: torch.Tensor, monkeypatch) -> torch.Tensor:
    qkv = block.attn.qkv(tokens)
    if route == "fused":
        tables = fast.relative_tables(block.attn, block.window_size or tokens.shape[1], qkv.dtype)
        heads = block.attn.num_attention_heads
        return fast._fused_attention(qkv, block.attn.qkv.bias, tables, heads, block.window_size, block.attn.scale)
    if route == "kernel":
        if not native.serves(qkv, block.attn.num_attention_heads):
            pytest.skip("the kernel is not built, not for this processor, or switched off")
        return fast.space_attention(block.attn, qkv, block.window_size)
    if route == "small tiles":
        monkeypatch.setattr(tiled_attention, "TILE_ELEMENTS", 150)
    with native.without_kernel():
        return fast.space_attention(block.attn, qkv, block.window_size)


@pytest.mark.parametrize("route", ROUTES)
@every_grid
def test_attention_and_all_its_gradients_are_exact(grid, window, route, monkeypatch):
    """In fp64, so that a wrong term cannot hide behind rounding; all weights trained, as in a full fine-tune."""
    block = make_block(grid, window, torch.float64)
    tokens = torch.randn(2, grid, grid, 32, dtype=torch.float64, requires_grad=True)
    grad = torch.randn(2, grid, grid, 32, dtype=torch.float64)
    wanted = [tokens, block.attn.qkv.weight, block.attn.qkv.bias, block.attn.rel_pos_h, block.attn.rel_pos_w]
    results = []
    for compute in (lambda: reference(block, tokens), lambda: through(route, block, tokens, monkeypatch)):
        out = compute()
        results.append([out, *torch.autograd.grad(out, wanted, grad)])
    for want, got in zip(*results, strict=True):
        assert want.abs().max() > 1e-3  # a gradient that vanishes would prove nothing
        torch.testing.assert_close(got, want, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("route", [*ROUTES, "kernel"])
@every_grid
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.bfloat16, 2e-2)])
def test_attention_keeps_within_rounding(grid, window, route, dtype, tolerance, monkeypatch):
    block = make_block(grid, window, std=0.2).requires_grad_(False)  # at 0.3 transformers' own bf16 is beyond 2e-2
    tokens = torch.randn(2, grid, grid, 32)
    want = reference(block, tokens)
    got = through(route, block.to(dtype), tokens.to(dtype), monkeypatch).float()
    assert (got - want).abs().max() <= tolerance * want.abs().max()


def test_tables_of_another_size_are_interpolated():
    block = make_block(8, 0)
    tokens = torch.randn(1, 12, 12, 32)
    torch.testing.assert_close(fast.space_attention(block.attn, block.attn.qkv(tokens), 0), reference(block, tokens))


def test_a_qkv_without_bias_and_a_sam_without_relative_positions():
    for changes in ({"qkv_bias": False}, {"use_rel_pos": False}):
        config = SamVisionConfig(
            hidden_size=32, num_attention_heads=2, image_size=64, patch_size=8, window_size=5, **changes
        )
        config._attn_implementation = "sdpa"
        block = SamVisionLayer(config, 5)
        tokens = torch.randn(2, 8, 8, 32)
        torch.testing.assert_close(
            fast.space_attention(block.attn, block.attn.qkv(tokens), 5), reference(block, tokens)
        )


def test_window_groups_cover_each_token_once():
    for height, width, window in [(8, 8, 5), (16, 16, 14), (3, 7, 4), (6, 6, 14), (10, 5, 5), (7, 9, 0)]:
        seen = torch.zeros(1, height, width, 1)
        for group in windows.window_groups(height, width, window):
            view = group.cut(seen)
            assert view.shape == (1, group.ny, group.height, group.nx, group.width, 1)
            view += 1
        assert (seen == 1).all()


# -- whole models ------------------------------------------------------------------------------------------------------


def relative_error(got: torch.Tensor, want: torch.Tensor) -> float:
    return float((got.float() - want.float()).abs().max() / want.float().abs().max())


@pytest.mark.parametrize("size", [64, 128, 72])
@pytest.mark.parametrize("dims", ["none", "2D", "3D"])
def test_encoders_equal_transformers(tiny_base, randomise, dims, size):
    adapter = None if dims == "none" else MSAAdapterConfig(use_depth=dims == "3D", num_slices=3, bottleneck_ratio=0.25)
    model = randomise(MSAModel.from_base(tiny_base, adapter, image_size=size)).requires_grad_(False)
    assert all(isinstance(getattr(x, "base_layer", x), FastVisionLayer) for x in model.vision_encoder.layers)
    pixels = torch.randn(2, 3, 3, size, size) if dims == "3D" else torch.randn(2, 3, size, size)
    with plain_attention():
        want = model.get_image_embeddings(pixels)
    got = model.get_image_embeddings(pixels)
    assert not torch.equal(got, want)  # another route was taken
    assert relative_error(got, want) < 1e-5
    assert relative_error(model.to(torch.bfloat16).get_image_embeddings(pixels), want) < 2e-2


@pytest.mark.parametrize("dims", ["2D", "3D"])
@pytest.mark.parametrize("frozen_type", [torch.float32, torch.bfloat16])
def test_adapter_gradients_equal_those_of_transformers_code(tiny_base, randomise, dims, frozen_type):
    from medsam_adapter.training.setup import keep_frozen_encoder_in

    config = MSAAdapterConfig(use_depth=dims == "3D", num_slices=3, bottleneck_ratio=0.25, depth_bias=dims == "3D")
    model = randomise(MSAModel.from_base(tiny_base, config))
    pixels = torch.randn(2, 3, 3, 64, 64) if dims == "3D" else torch.randn(2, 3, 64, 64)
    gradients = []
    for is_fast in (False, True):
        model.zero_grad()
        if is_fast:
            keep_frozen_encoder_in(model, frozen_type)
        with contextlib.nullcontext() if is_fast else plain_attention():
            embeddings = model.encode(pixels).float()
            torch.manual_seed(1)
            (embeddings * torch.randn(embeddings.shape)).mean().backward()
        gradients.append({n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None})
    assert gradients[0].keys() == gradients[1].keys() and len(gradients[0]) > 10
    for name, want in gradients[0].items():
        got = gradients[1][name]
        assert got.dtype == torch.float32
        if frozen_type == torch.float32:
            assert relative_error(got, want) < 1e-4, name
        else:  # single entries are noise in bfloat16, the direction is not
            assert nn.functional.cosine_similarity(got.flatten(), want.flatten(), 0) > 0.97, name


def test_a_fresh_adapter_on_the_fast_path_is_sam(tiny_base, inputs_for):
    sam = SamModel.from_pretrained(tiny_base)
    model = MSAModel.from_base(tiny_base, MSAAdapterConfig(bottleneck_ratio=0.25))
    with torch.no_grad():
        want = sam(**inputs_for("2D"), multimask_output=True).pred_masks
        got = model(**inputs_for("2D"), multimask_output=True).pred_masks
    assert relative_error(got, want) < 1e-4  # of the masks, which lie behind a whole decoder


def test_there_is_no_graph_below_the_first_adapter(tiny_base):
    model = MSAModel.from_base(tiny_base, MSAAdapterConfig(encoder_layers=[2], use_decoder=False)).train()
    seen = []
    for layer in model.vision_encoder.layers:
        layer.register_forward_hook(
            lambda module, inputs, out: seen.append((inputs[0].requires_grad, out.requires_grad))
        )
    model.encode(torch.randn(1, 3, 64, 64))
    assert seen == [(False, False), (False, False), (False, True)]


def test_eager_attention_stays_transformers_own_and_returns_its_weights(tiny_base):
    model = MSAModel.from_base(tiny_base, MSAAdapterConfig(), attn_implementation="eager")
    out = model.vision_encoder(torch.randn(1, 3, 64, 64), output_attentions=True)
    assert len(out.attentions) == 3 and all(weights.sum() > 0 for weights in out.attentions)


def test_a_hooked_attention_is_called(tiny_base):
    """accelerate moves offloaded weights in when a module is called; weights taken past the call would be missing."""
    model, called = MSAModel.from_base(tiny_base, MSAAdapterConfig()), []
    model.vision_encoder.layers[0].base_layer.attn.register_forward_pre_hook(lambda *_: called.append("attn"))
    model.vision_encoder.layers[1].base_layer.mlp.lin1.register_forward_pre_hook(lambda *_: called.append("lin1"))
    model.get_image_embeddings(torch.randn(1, 3, 64, 64))
    assert called == ["attn", "lin1"]


@pytest.mark.parametrize("place", [{}, {"encoder_layers": [2]}], ids=["adapted block", "frozen block"])
def test_what_a_hook_has_seen_stays_as_it_was(tiny_base, place):
    """Sums are made in place; a tensor that somebody keeps must not be among them."""
    model, kept = MSAModel.from_base(tiny_base, MSAAdapterConfig(**place)), []
    block = model.vision_encoder.layers[0]
    block = getattr(block, "base_layer", block)
    for module in (block.mlp, block.mlp.lin2, block.attn.proj):
        module.register_forward_hook(lambda _, inputs, out: kept.append((out, out.detach().clone())))
    model.get_image_embeddings(torch.randn(1, 3, 64, 64))
    assert len(kept) == 3 and all(torch.equal(out, copy_) for out, copy_ in kept)


def test_models_on_the_fast_path_pickle_and_copy(tiny_base, randomise):
    model = randomise(MSAModel.from_base(tiny_base, MSAAdapterConfig())).requires_grad_(False)
    pixels = torch.randn(1, 3, 64, 64)
    want = model.get_image_embeddings(pixels)
    for twin in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        torch.testing.assert_close(twin.get_image_embeddings(pixels), want)


def test_without_onednn_the_result_is_the_same(tiny_base, randomise, monkeypatch):
    model = randomise(MSAModel.from_base(tiny_base, MSAAdapterConfig())).requires_grad_(False)
    pixels = torch.randn(1, 3, 64, 64)
    want = model.get_image_embeddings(pixels)
    monkeypatch.setattr(products, "_has_onednn", False)
    assert relative_error(model.get_image_embeddings(pixels), want) < 1e-5


def test_inference_mode_first_and_training_after(tiny_base):
    """What the first call keeps (one-hot positions) must serve a later one that needs gradients."""
    windows.one_hot_positions.cache_clear()
    model = MSAModel.from_base(tiny_base, MSAAdapterConfig())
    with torch.inference_mode():
        model.encode(torch.randn(1, 3, 64, 64))
    model.encode(torch.randn(1, 3, 64, 64)).sum().backward()


def test_a_lora_in_the_encoder_still_counts(tiny_base):
    """A linear layer that another method has wrapped is called, not only its weight used."""
    from peft import LoraConfig, get_peft_model

    model = get_peft_model(MSAModel.from_base(tiny_base), LoraConfig(target_modules=["qkv", "lin1"])).eval()
    pixels = torch.randn(1, 3, 64, 64)
    before = model.get_image_embeddings(pixels)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                nn.init.normal_(parameter, std=0.3)
    with plain_attention():
        want = model.get_image_embeddings(pixels)
    assert relative_error(want, before) > 1e-2
    assert relative_error(model.get_image_embeddings(pixels), want) < 1e-5


def test_the_block_is_the_one_that_transformers_uses():
    """The fast path stands in for this class; should transformers rename it, nothing would be fast any more."""
    assert type(make_block(8, 5).attn) is SamVisionSdpaAttention


@pytest.mark.parametrize("dims", ["none", "2D", "3D"])
def test_blocks_compile_without_a_break(tiny_base, randomise, dims):
    """One graph a block: a break would fall back to the tiles, which compilers cannot see into."""
    adapter = None if dims == "none" else MSAAdapterConfig(use_depth=dims == "3D", num_slices=2)
    model = randomise(MSAModel.from_base(tiny_base, adapter)).requires_grad_(False)
    tokens = torch.randn(2, 8, 8, 32)
    for layer in model.vision_encoder.layers[:2]:  # windowed, global
        kwargs = {"num_slices": 2} if dims == "3D" else {}
        want = layer.forward(tokens, **kwargs)
        torch._dynamo.reset()
        compiled = torch.compile(layer.forward, backend="eager", fullgraph=True)
        assert relative_error(compiled(tokens, **kwargs), want) < 1e-5
