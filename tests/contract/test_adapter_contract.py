"""What every adapter variant keeps: SAM at the start and when off, small exact files, gradients in adapters only."""

from __future__ import annotations

import copy
import json

import pytest
import torch
from peft import PeftConfig, PeftModel, get_peft_model
from safetensors.torch import load_file
from transformers import SamModel

from medsam_adapter.adapters.bottleneck import bottleneck_width
from medsam_adapter.adapters.config import MSAAdapterConfig
from medsam_adapter.adapters.vision_layer import MSAVisionLayer
from medsam_adapter.errors import CheckpointError, MergeNotSupportedError
from medsam_adapter.modeling_msa import MSAModel

VARIANTS = [
    pytest.param(dims, fusion, place, id=f"{dims}-{fusion}-{place}")
    for dims in ("2D", "3D")
    for fusion in ("add", "concat", "hyper", "none")
    for place in ("encoder", "decoder", "both")
]
every_variant = pytest.mark.parametrize(("dims", "fusion", "place"), VARIANTS)


def config_of(dims: str = "2D", fusion: str = "add", place: str = "both", **changes) -> MSAAdapterConfig:
    values = dict(
        use_depth=dims == "3D", depth_bias=dims == "3D", prompt_fusion=fusion, num_slices=4, bottleneck_ratio=0.25,
        use_encoder=place != "decoder", use_decoder=place != "encoder",
    )  # fmt: skip
    return MSAAdapterConfig(**{**values, **changes})


@torch.no_grad()
def outputs(model, inputs):
    """Masks and scores of the model as it is, all weights frozen meanwhile: even under no_grad, PyTorch's linear layers
    round differently (1e-7) where a weight requires a gradient, and equality here is exact."""
    wanted, mode = [p for p in model.parameters() if p.requires_grad], model.training
    for parameter in wanted:
        parameter.requires_grad_(False)
    out = model.eval()(**inputs, multimask_output=True)
    for parameter in wanted:
        parameter.requires_grad_(True)
    model.train(mode)
    return out.pred_masks, out.iou_scores


def assert_equal(one, other):
    for a, b in zip(one, other, strict=True):
        assert torch.equal(a, b), f"largest difference {(a - b).abs().max():.2e}"


def assert_differs(one, other):
    assert (one[0] - other[0]).abs().max() > 1e-4


def assert_same_model(one, other, inputs):
    """Equal weights to the bit. Outputs only nearly: products round by where a weight lies in memory, and each file has
    its own offsets."""
    a, b = one.state_dict(), other.state_dict()
    assert a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)
    for x, y in zip(outputs(one, inputs), outputs(other, inputs), strict=True):
        torch.testing.assert_close(x, y, rtol=1e-5, atol=1e-6)


def flat(inputs: dict) -> dict:
    """The slices of volumes as single pictures."""
    return {name: value.flatten(0, 1) for name, value in inputs.items()}


@pytest.fixture
def adapted(tiny_base, randomise):
    """A model with random adapter weights, as after training."""

    def make(*variant, adapter_name="default", **changes):
        model = MSAModel.from_base(tiny_base, config_of(*variant, **changes), adapter_name=adapter_name)
        return randomise(model)

    return make


# -- start, off, gradients ---------------------------------------------------------------------------------------------


@every_variant
def test_starts_as_sam(plain_attention, tiny_base, inputs_for, dims, fusion, place):
    sam = SamModel.from_pretrained(tiny_base).requires_grad_(False)
    model = MSAModel.from_base(tiny_base, config_of(dims, fusion, place))
    inputs = inputs_for(dims)
    got = outputs(model, inputs)
    if dims == "3D":
        want, got = outputs(sam, flat(inputs)), [x.flatten(0, 1) for x in got]
    else:
        want = outputs(sam, inputs)
    assert_equal(got, want)


@every_variant
def test_switched_off_it_is_sam_and_on_it_is_not(tiny_base, adapted, inputs_for, dims, fusion, place):
    model, inputs = adapted(dims, fusion, place), inputs_for(dims)
    plain = outputs(MSAModel.from_base(tiny_base), inputs)
    on = outputs(model, inputs)
    assert_differs(on, plain)
    model.disable_adapters()
    assert_equal(outputs(model, inputs), plain)
    model.enable_adapters()
    assert_equal(outputs(model, inputs), on)


@every_variant
def test_gradients_reach_every_adapter_parameter_and_nothing_else(adapted, inputs_for, dims, fusion, place):
    model = adapted(dims, fusion, place).train()
    out = model(**inputs_for(dims), multimask_output=True)
    (out.pred_masks.square().mean() + out.iou_scores.square().mean()).backward()
    for name, parameter in model.named_parameters():
        if "msa_adapter_" in name:
            assert parameter.requires_grad, name
            assert parameter.grad is not None and parameter.grad.abs().max() > 0, name
        else:
            assert not parameter.requires_grad and parameter.grad is None, name


@every_variant
def test_prompt_fusion_lets_the_prompt_in(adapted, inputs_for, dims, fusion, place):
    if place == "encoder":
        pytest.skip("no decoder adapters")
    block = adapted(dims, fusion, place).mask_decoder.transformer.layers[1]
    tokens, prompts = torch.randn(2, 1, 7, 32), torch.randn(2, 1, 2, 32)
    fused = block.msa_adapter_token["default"]
    with torch.no_grad():
        moved = (fused(tokens, prompts + 1) - fused(tokens, prompts)).abs().amax((1, 2, 3))
        assert (moved > 1e-5).all() if fusion != "none" else (moved == 0).all()
        assert fused(tokens, prompts[:, :, :0]).shape == tokens.shape  # no prompt at all
        one = fused(tokens, torch.stack([prompts[0], prompts[1] + 5]))
        assert torch.allclose(one[0], fused(tokens, prompts)[0], atol=1e-6)  # the prompt of its own object only


def test_hyper_depth_makes_that_many_layers(adapted):
    fusion = adapted("2D", "hyper", "decoder", hyper_depth=3).mask_decoder.transformer.layers[0].msa_adapter_token
    assert len(fusion["default"].fusion.makers) == 3


@pytest.mark.parametrize("layers", [[0], [0, 2]])
def test_only_the_chosen_layers_are_wrapped(tiny_base, layers):
    model = MSAModel.from_base(tiny_base, config_of(encoder_layers=layers, decoder_layers=[1]))
    wrapped = [i for i, layer in enumerate(model.vision_encoder.layers) if isinstance(layer, MSAVisionLayer)]
    assert wrapped == layers
    assert [hasattr(x, "base_layer") for x in model.mask_decoder.transformer.layers] == [False, True]


# -- the paper's formulas ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("index", [0, 1], ids=["windowed", "global"])
@pytest.mark.parametrize("dims", ["2D", "3D"])
def test_encoder_block_is_the_papers_formula(adapted, dims, index):
    layer = adapted(dims, mlp_scale=0.3).vision_encoder.layers[index]
    block, x = layer.base_layer, torch.randn(4, 8, 8, 32)
    space, mlp = layer.msa_adapter_space["default"], layer.msa_adapter_mlp["default"]
    with torch.no_grad():
        normed = block.layer_norm1(x)
        if index == 0:  # 8 x 8 tokens in 5 x 5 windows: 2 x 2 windows of the padded 10 x 10 grid
            padded = torch.nn.functional.pad(normed, (0, 0, 0, 2, 0, 2))
            a = torch.cat(
                [torch.cat([block.attn(padded[:, r : r + 5, c : c + 5])[0] for c in (0, 5)], 2) for r in (0, 5)], 1
            )
            a = a[:, :8, :8]
        else:
            a = block.attn(normed)[0]
        h = x + a + space.up(space.down(a).relu())
        if dims == "3D":
            depth = layer.msa_adapter_depth["default"]
            d = naive_depth(block.attn, normed, layer.msa_adapter_depth_bias["default"].weight, reach=3)
            h = h + depth.up(depth.down(d).relu())
        z = block.layer_norm2(h)
        want = h + block.mlp(z) + 0.3 * mlp.up(mlp.down(z).relu())
        got = layer.forward(x, num_slices=4)
    assert torch.allclose(got, want, atol=1e-5), (got - want).abs().max()


def naive_depth(attention, normed, bias, reach: int):
    """Attention over slices, written out token by token."""
    slices, height, width, channels = normed.shape
    heads = attention.num_attention_heads
    size = channels // heads
    out = torch.zeros_like(normed)
    for y in range(height):
        for x in range(width):
            q, k, v = attention.qkv(normed[:, y, x]).split(channels, 1)
            mixed = []
            for h in range(heads):
                part = slice(h * size, (h + 1) * size)
                scores = q[:, part] @ k[:, part].T / size**0.5
                for i in range(slices):
                    for j in range(slices):
                        scores[i, j] += bias[max(-reach, min(reach, i - j)) + reach, h]
                mixed.append(scores.softmax(1) @ v[:, part])
            out[:, y, x] = attention.proj(torch.cat(mixed, 1))
    return out


@pytest.mark.parametrize("index", [0, 1])
def test_decoder_block_is_the_papers_formula(adapted, index):
    layer = adapted("2D", "add", "both", mlp_scale=0.3).mask_decoder.transformer.layers[index]
    block = layer.base_layer
    tokens, keys, positions = torch.randn(2, 1, 9, 32), torch.randn(2, 1, 64, 32), torch.randn(2, 1, 64, 32)
    queries = tokens if index == 0 else torch.randn(2, 1, 9, 32)
    one, two, three = (getattr(layer, f"msa_adapter_{n}")["default"] for n in ("token", "mlp", "image"))
    with torch.no_grad():
        if index == 0:
            q = block.self_attn(query=queries, key=queries, value=queries)[0]
        else:
            q = queries + block.self_attn(query=queries + tokens, key=queries + tokens, value=queries)[0]
        q = block.layer_norm1(q)
        t = block.cross_attn_token_to_image(query=q + tokens, key=keys + positions, value=keys)[0]
        p = tokens[:, :, 5:].mean(2, keepdim=True)  # after the IoU token and four mask tokens: the prompt
        t = t + one.up((one.down(t) + one.fusion.down(p)).relu())
        q = block.layer_norm2(q + t)
        q = block.layer_norm3(q + block.mlp(q) + 0.3 * two.up(two.down(q).relu()))
        k = keys + block.cross_attn_image_to_token(query=keys + positions, key=q + tokens, value=q)[0]
        k = block.layer_norm4(k + three.up(three.down(k).relu()))
        got = layer(queries, keys, query_point_embedding=tokens, key_point_embedding=positions)
    assert torch.allclose(got[0], q, atol=1e-5) and torch.allclose(got[1], k, atol=1e-5)


def test_default_size_is_the_papers():
    """Two encoder adapters a block at r = 1/16 on ViT-H are the 13 M of the paper (13.19 M)."""
    width, narrow = 1280, bottleneck_width(1280, MSAAdapterConfig().bottleneck_ratio)
    assert 32 * 2 * (2 * width * narrow + width + narrow) == pytest.approx(13.19e6, rel=1e-3)


# -- files -------------------------------------------------------------------------------------------------------------


@every_variant
def test_the_file_holds_adapters_only_and_reloads_exactly(adapted, inputs_for, tmp_path, dims, fusion, place):
    model, inputs = adapted(dims, fusion, place), inputs_for(dims)
    model.save_pretrained(tmp_path)
    tensors = load_file(tmp_path / "adapter_model.safetensors")
    assert tensors and all(k.startswith("base_model.model.") and ".msa_adapter_" in k for k in tensors)
    assert not any("base_layer" in k or ".default." in k for k in tensors)
    count = sum(p.numel() for p in model.parameters() if p.requires_grad)
    assert sum(t.numel() for t in tensors.values()) == count
    assert (tmp_path / "adapter_model.safetensors").stat().st_size < 4 * count + 200 * len(tensors) + 100
    assert sorted(p.name for p in tmp_path.iterdir()) == [
        "adapter_config.json",
        "adapter_model.safetensors",
        "config.json",
    ]
    reloaded = MSAModel.from_pretrained(tmp_path)
    assert not any(p.requires_grad for p in reloaded.parameters()) and not reloaded.training
    assert_equal(outputs(reloaded, inputs), outputs(model, inputs))


@pytest.mark.parametrize("fusion", ["add", "hyper"])
@pytest.mark.parametrize("dims", ["2D", "3D"])
def test_three_doors_open_the_same_folder(adapted, tiny_base, inputs_for, tmp_path, dims, fusion):
    model, inputs = adapted(dims, fusion, "both"), inputs_for("2D")
    model.save_pretrained(tmp_path)
    want = outputs(model, inputs)
    assert_equal(outputs(MSAModel.from_pretrained(tmp_path), inputs), want)
    peft = PeftModel.from_pretrained(SamModel.from_pretrained(tiny_base), tmp_path).eval()
    assert_equal(outputs(peft, inputs), want)
    sam = SamModel.from_pretrained(tiny_base).requires_grad_(False)
    sam.load_adapter(str(tmp_path))
    assert_equal(outputs(sam, inputs), want)


@pytest.mark.parametrize("writer", ["peft", "transformers"])
def test_folders_of_peft_and_transformers_open_too(tiny_base, randomise, inputs_for, tmp_path, writer):
    sam, inputs = SamModel.from_pretrained(tiny_base), inputs_for("2D")
    if writer == "peft":
        saver = get_peft_model(sam, config_of())
    else:
        sam.add_adapter(config_of(base_model_name_or_path=str(tiny_base)))
        saver = sam
    randomise(sam)
    saver.eval().save_pretrained(tmp_path)
    assert_equal(outputs(MSAModel.from_pretrained(tmp_path), inputs), outputs(saver.requires_grad_(False), inputs))


@pytest.mark.parametrize("name", ["liver", "down", "a", "msa_depth"])
def test_a_renamed_adapter_loads_whole(adapted, tiny_base, inputs_for, tmp_path, name):
    model, inputs = adapted("3D", "hyper", "both", adapter_name=name), inputs_for("3D")
    model.save_pretrained(tmp_path)
    want = outputs(model, inputs)
    reloaded = MSAModel.from_pretrained(tmp_path, adapter_name="other")
    assert reloaded.active_adapters() == ["other"]
    assert_equal(outputs(reloaded, inputs), want)
    picture = inputs_for("2D")
    peft = PeftModel.from_pretrained(SamModel.from_pretrained(tiny_base), tmp_path, adapter_name="x").eval()
    assert_equal(outputs(peft, picture), outputs(model, picture))


@pytest.mark.parametrize("dims", ["2D", "3D"])
def test_a_full_save_opens_without_its_base(adapted, inputs_for, tmp_path, dims):
    model, inputs = adapted(dims), inputs_for(dims)
    model.save_pretrained(tmp_path / "full", full=True)
    assert not (tmp_path / "full" / "adapter_config.json").exists()
    assert model.config.adapter_configs is None and model._hf_peft_config_loaded  # the model itself is as before
    full = MSAModel.from_pretrained(tmp_path / "full")
    assert_same_model(full, model, inputs)
    assert full.active_adapters() == ["default"] and full.config.num_slices == model.config.num_slices
    full.save_pretrained(tmp_path / "again", full=True)
    assert_same_model(MSAModel.from_pretrained(tmp_path / "again"), model, inputs)


def test_a_full_save_of_a_reloaded_adapter(adapted, inputs_for, tmp_path):
    model, inputs = adapted("3D"), inputs_for("3D")
    model.save_pretrained(tmp_path / "adapter")
    MSAModel.from_pretrained(tmp_path / "adapter").save_pretrained(tmp_path / "full", full=True)
    assert_same_model(MSAModel.from_pretrained(tmp_path / "full"), model, inputs)


def test_an_adapter_on_a_base_without_a_name_is_not_saved_alone(tiny_sam, inputs_for, randomise, tmp_path):
    model = randomise(MSAModel.from_base(tiny_sam(), config_of()))
    with pytest.raises(CheckpointError, match="full=True"):
        model.save_pretrained(tmp_path / "adapter")
    assert not (tmp_path / "adapter" / "adapter_model.safetensors").exists()
    model.save_pretrained(tmp_path / "full", full=True)
    inputs = inputs_for("2D")
    assert_same_model(MSAModel.from_pretrained(tmp_path / "full"), model, inputs)


def test_one_configuration_for_two_bases_keeps_each_base(tiny_base, tiny_sam, tmp_path):
    tiny_sam(seed=5).save_pretrained(tmp_path / "other")
    config = config_of()
    first = MSAModel.from_base(tiny_base, config)
    MSAModel.from_base(tmp_path / "other", config)
    first.save_pretrained(tmp_path / "adapter")
    recorded = json.loads((tmp_path / "adapter" / "adapter_config.json").read_text())["base_model_name_or_path"]
    assert recorded == str(tiny_base)


def test_reloaded_for_training_it_trains(adapted, inputs_for, tmp_path):
    adapted("2D").save_pretrained(tmp_path)
    model = MSAModel.from_pretrained(tmp_path, is_trainable=True)
    trained = {n for n, p in model.named_parameters() if p.requires_grad}
    assert trained and all("msa_adapter_" in n for n in trained)
    assert len(trained) == sum("msa_adapter_" in n for n, _ in model.named_parameters())


def test_a_half_precision_base_gets_adapters_that_save_and_reload(tiny_base, randomise, inputs_for, tmp_path):
    model = randomise(MSAModel.from_base(tiny_base, config_of(), dtype=torch.bfloat16))
    inputs = {k: v.bfloat16() if k == "pixel_values" else v for k, v in inputs_for("2D").items()}
    want = outputs(model, inputs)
    assert want[0].isfinite().all()
    model.save_pretrained(tmp_path)
    assert_equal(outputs(MSAModel.from_pretrained(tmp_path, dtype=torch.bfloat16), inputs), want)


# -- several adapters, removal, merging --------------------------------------------------------------------------------


def test_several_adapters_live_side_by_side(tiny_base, randomise, inputs_for, tmp_path):
    inputs = inputs_for("3D")
    alone = {}
    for seed, (name, config) in enumerate({"a": config_of("3D", "add"), "b": config_of("2D", "hyper")}.items()):
        model = randomise(MSAModel.from_base(tiny_base, config, adapter_name=name), seed=seed)
        model.save_pretrained(tmp_path / name)
        alone[name] = outputs(model, inputs)
    both = MSAModel.from_base(tiny_base)
    for name in "ab":
        both.load_adapter(str(tmp_path / name), adapter_name=name)
    for name in "abab":
        both.set_adapter(name)
        assert_equal(outputs(both, inputs), alone[name])
        both.save_pretrained(tmp_path / f"again-{name}")
        assert_equal(outputs(MSAModel.from_pretrained(tmp_path / f"again-{name}"), inputs), alone[name])
    both.save_pretrained(tmp_path / "chosen", adapter_name="a")
    assert_equal(outputs(MSAModel.from_pretrained(tmp_path / "chosen"), inputs), alone["a"])
    both.disable_adapters()
    assert_equal(outputs(both, inputs), outputs(MSAModel.from_base(tiny_base), inputs))
    both.enable_adapters()
    both.set_adapter(["a", "b"])
    together = outputs(both, inputs)
    assert_differs(together, alone["a"]), assert_differs(together, alone["b"])


def test_a_second_fresh_adapter_is_the_trained_one(adapted, tiny_base, inputs_for):
    model, inputs = adapted("2D"), inputs_for("2D")
    first = outputs(model, inputs)
    model.add_msa_adapter(config_of("2D", "concat"), "second")
    assert model.active_adapters() == ["second"]
    assert_equal(outputs(model, inputs), outputs(MSAModel.from_base(tiny_base), inputs))
    trained = [n for n, p in model.named_parameters() if p.requires_grad]
    assert trained and all(".second." in n for n in trained)
    model.set_adapter("default")
    assert_equal(outputs(model, inputs), first)


def test_full_save_of_two_adapters(tiny_base, randomise, inputs_for, tmp_path):
    model = MSAModel.from_base(tiny_base, config_of("2D"), adapter_name="a")
    model.add_msa_adapter(config_of("2D", "concat"), "b")
    randomise(model)
    inputs = inputs_for("2D")
    model.save_pretrained(tmp_path, full=True)
    full = MSAModel.from_pretrained(tmp_path)
    for name in "ab":
        model.set_adapter(name), full.set_adapter(name)
        assert_same_model(full, model, inputs)


def test_deleting_an_adapter_gives_the_other_or_sam(adapted, tiny_base, inputs_for):
    model, inputs = adapted("3D"), inputs_for("3D")
    first = outputs(model, inputs)
    model.add_msa_adapter(config_of("3D"), "second")
    model.delete_adapter("second")
    model.set_adapter("default")
    assert not any(".second." in name for name, _ in model.named_parameters())
    assert_equal(outputs(model, inputs), first)
    model.delete_adapter("default")
    assert not any("msa_adapter_" in name for name, _ in model.named_parameters())
    assert_equal(outputs(model, inputs), outputs(MSAModel.from_base(tiny_base), inputs))


def test_peft_wraps_a_sam(plain_attention, tiny_base, inputs_for, randomise):
    sam, inputs = SamModel.from_pretrained(tiny_base).requires_grad_(False), inputs_for("2D")
    want = outputs(sam, inputs)
    model = get_peft_model(SamModel.from_pretrained(tiny_base), config_of()).eval()
    assert_equal(outputs(model, inputs), want)
    randomise(model)
    on = outputs(model, inputs)
    assert_differs(on, want)
    with model.disable_adapter():
        assert_equal(outputs(model, inputs), want)
    trainable, total = model.get_nb_trainable_parameters()
    assert 0 < trainable < total
    unloaded = model.unload()
    assert type(unloaded) is SamModel
    assert not any("msa_adapter_" in n or "base_layer" in n for n in unloaded.state_dict())
    assert set(unloaded.state_dict()) == set(sam.state_dict())
    assert_equal(outputs(unloaded.requires_grad_(False), inputs), want)


@pytest.mark.parametrize("changes", [{}, {"train_mask_decoder": True}], ids=["adapters", "trained decoder"])
@pytest.mark.parametrize("method", ["merge_and_unload", "merge_adapter"])
def test_merging_is_refused_with_its_reason(tiny_base, inputs_for, randomise, method, changes):
    model = randomise(get_peft_model(SamModel.from_pretrained(tiny_base), config_of(**changes)).eval())
    before = outputs(model, inputs_for("2D"))
    with pytest.raises(MergeNotSupportedError, match="activation") as caught:
        getattr(model, method)()
    assert isinstance(caught.value, NotImplementedError) and "full=True" in str(caught.value)
    assert_equal(outputs(model, inputs_for("2D")), before)  # nothing is half merged


def test_copies_are_independent(adapted, inputs_for, randomise):
    model, inputs = adapted("3D"), inputs_for("3D")
    before = outputs(model, inputs)
    twin = copy.deepcopy(model)
    assert_equal(outputs(twin, inputs), before)
    randomise(twin, seed=9)
    assert_differs(outputs(twin, inputs), before)
    assert_equal(outputs(model, inputs), before)


@pytest.mark.parametrize("dims", ["2D", "3D"])
def test_a_trained_mask_decoder_trains_saves_and_reloads(tiny_base, inputs_for, tmp_path, dims):
    model, inputs = MSAModel.from_base(tiny_base, config_of(dims, train_mask_decoder=True)).train(), inputs_for(dims)
    start = outputs(model, inputs)
    trained = {n for n, p in model.named_parameters() if p.requires_grad}
    assert all("msa_adapter_" in n or "mask_decoder.modules_to_save.default." in n for n in trained)
    assert any("mask_decoder" in n for n in trained) and any("vision_encoder" in n for n in trained)
    assert not any("mask_decoder" in n and "msa_adapter" in n for n, _ in model.named_parameters())
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=1.0)
    model(**inputs).pred_masks.square().mean().backward()
    optimizer.step()
    model.eval()
    want = outputs(model, inputs)
    assert_differs(want, start)
    model.save_pretrained(tmp_path)
    assert_equal(outputs(MSAModel.from_pretrained(tmp_path), inputs), want)
    assert_equal(outputs(MSAModel.from_pretrained(tmp_path, adapter_name="other"), inputs), want)
    model.disable_adapters()
    assert_equal(outputs(model, inputs), outputs(MSAModel.from_base(tiny_base), inputs))


def test_a_trained_mask_decoder_in_a_full_save(tiny_base, inputs_for, randomise, tmp_path):
    model = MSAModel.from_base(tiny_base, config_of("2D", train_mask_decoder=True))
    randomise(randomise(model), only="modules_to_save")
    model.save_pretrained(tmp_path, full=True)
    assert_same_model(MSAModel.from_pretrained(tmp_path), model, inputs_for("2D"))


# -- ways of running ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dims", ["2D", "3D"])
def test_gradient_checkpointing_changes_no_gradient(adapted, inputs_for, dims):
    inputs, gradients, original = inputs_for(dims), [], adapted(dims)
    for checkpointing in (False, True):
        model = copy.deepcopy(original).train()
        if checkpointing:
            model.activation_checkpointing_enable()
            assert any(getattr(layer, "gradient_checkpointing", False) for layer in model.vision_encoder.layers)
        model(**inputs).pred_masks.square().mean().backward()
        gradients.append({n: p.grad for n, p in model.named_parameters() if p.grad is not None})
    assert gradients[0].keys() == gradients[1].keys() and gradients[0]
    for name, gradient in gradients[0].items():
        difference = (gradients[1][name] - gradient).abs().max()
        assert difference <= 1e-5 * gradient.abs().max(), (name, difference)


@pytest.mark.parametrize("fusion", ["add", "concat", "hyper", "none"])
@pytest.mark.parametrize("dims", ["2D", "3D"])
def test_autocast_trains(adapted, inputs_for, dims, fusion):
    model, inputs = adapted(dims, fusion).train(), inputs_for(dims)
    exact = outputs(model, inputs)[0]
    with torch.autocast("cpu", torch.bfloat16):
        out = model(**inputs, multimask_output=True)
        loss = out.pred_masks.float().square().mean()
    loss.backward()
    assert (out.pred_masks.float() - exact).abs().mean() < 0.1 * exact.abs().mean() + 0.05
    assert all(p.grad.isfinite().all() and p.grad.dtype == p.dtype for p in model.parameters() if p.requires_grad)


def test_compiled_is_eager(adapted, inputs_for):
    model, inputs = adapted("3D"), inputs_for("3D")
    want = outputs(model, inputs)
    torch._dynamo.reset()
    compiled = torch.compile(model, backend="eager")
    for one, other in zip(outputs(compiled, inputs), want, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-5)


def test_hidden_states_are_still_captured(adapted, tiny_base, inputs_for):
    """transformers records a block's output by its class: once for each block, with adapters on or off."""
    model, pixels = adapted("2D"), inputs_for("2D")["pixel_values"]

    def shapes(m):
        return [tuple(h.shape) for h in m.vision_encoder(pixels, output_hidden_states=True).hidden_states]

    want = shapes(SamModel.from_pretrained(tiny_base))
    assert shapes(model) == want
    model.disable_adapters()
    assert shapes(model) == want


# -- configuration -----------------------------------------------------------------------------------------------------


@every_variant
def test_configuration_survives_json(tmp_path, dims, fusion, place):
    config = config_of(dims, fusion, place, encoder_layers=[0, 2], mlp_scale=0.25)
    config.save_pretrained(tmp_path)
    read = PeftConfig.from_pretrained(tmp_path)
    assert isinstance(read, MSAAdapterConfig)
    ours = {k: v for k, v in vars(config).items() if k != "peft_version"}
    assert ours == {k: vars(read)[k] for k in ours}
    assert json.loads((tmp_path / "adapter_config.json").read_text())["peft_type"] == "MSA_ADAPTER"


@pytest.mark.parametrize(
    ("values", "text"),
    [
        ({"bottleneck_ratio": 0}, "bottleneck_ratio"),
        ({"bottleneck_ratio": -1.0}, "bottleneck_ratio"),
        ({"bottleneck_ratio": 5.0}, "bottleneck_ratio"),
        ({"num_slices": 0}, "num_slices"),
        ({"hyper_depth": 0}, "hyper_depth"),
        ({"prompt_fusion": "sum"}, "add, concat, hyper, none"),
        ({"activation": "reluu"}, "activation"),
        ({"bias": "all"}, "bias"),
        ({"use_encoder": False, "use_decoder": False}, "nothing to adapt"),
        ({"use_encoder": False, "train_mask_decoder": True}, "nothing to adapt"),
    ],
)
def test_wrong_values_are_refused(values, text):
    with pytest.raises(ValueError, match=text):
        MSAAdapterConfig(**values)


def test_layers_that_are_not_there_are_refused(tiny_base):
    with pytest.raises(ValueError):
        MSAModel.from_base(tiny_base, config_of(encoder_layers=[7], use_decoder=False))


def test_blocks_of_another_kind_are_refused(tiny_base):
    with pytest.raises(ValueError, match="SamVisionLayer"):
        MSAModel.from_base(tiny_base, MSAAdapterConfig(target_modules=["neck"]))


def test_a_base_that_is_an_adapter_is_refused_with_the_way_out(adapted, tmp_path):
    adapted("2D").save_pretrained(tmp_path)
    with pytest.raises(CheckpointError, match="has an adapter already") as error:
        MSAModel.from_base(tmp_path, config_of())
    assert "is_trainable" in str(error.value)
    assert MSAModel.from_base(tmp_path, config_of(), adapter_name="second").active_adapters() == ["second"]
