"""`MSAModel`: how it is built, opened and resized, what it takes, and what it refuses."""

from __future__ import annotations

import json
import shutil

import peft.mapping
import pytest
import torch
from peft import IA3Config, LoraConfig, get_peft_model
from transformers import AutoConfig, AutoModel, AutoModelForMaskGeneration, BertConfig, BertModel, SamModel

from medsam_adapter.adapters.config import MSAAdapterConfig, MSAPeftType
from medsam_adapter.adapters.tuner import register_peft_method
from medsam_adapter.configuration_msa import MSAConfig
from medsam_adapter.errors import CheckpointError, PromptError
from medsam_adapter.image_size import set_image_size
from medsam_adapter.losses import best_mask_loss
from medsam_adapter.modeling_msa import MSAModel


def small(**changes) -> MSAAdapterConfig:
    return MSAAdapterConfig(**{"bottleneck_ratio": 0.25, "num_slices": 4, **changes})


@torch.no_grad()
def masks(model, inputs, **kwargs):
    return model(**inputs, **kwargs).pred_masks


@pytest.fixture
def adapter_folder(tiny_base, randomise, tmp_path):
    folder = tmp_path / "adapter"
    randomise(MSAModel.from_base(tiny_base, small())).save_pretrained(folder)
    return folder


# -- from_base ---------------------------------------------------------------------------------------------------------


def test_from_a_folder_and_from_a_model(plain_attention, tiny_base, inputs_for):
    inputs, sam = inputs_for("2D"), SamModel.from_pretrained(tiny_base)
    for base in (str(tiny_base), tiny_base, sam):
        model = MSAModel.from_base(base)
        assert isinstance(model, MSAModel) and isinstance(model.config, MSAConfig) and model.config.model_type == "msa"
        assert not model.training and not any(p.requires_grad for p in model.parameters())
        assert model.base_name == str(tiny_base)
        with torch.no_grad():
            want = (
                SamModel.from_pretrained(tiny_base).requires_grad_(False)(**inputs, multimask_output=False).pred_masks
            )
        assert torch.equal(masks(model, inputs), want)
    assert all(p.requires_grad for p in sam.parameters())  # the given model is left as it was
    assert sam.config.model_type == "sam"


def test_a_given_model_shares_its_weights(tiny_sam):
    sam = tiny_sam()
    model = MSAModel.from_base(sam, small(), image_size=96)
    assert model.mask_decoder.iou_token.weight.data_ptr() == sam.mask_decoder.iou_token.weight.data_ptr()
    assert sam.config.vision_config.image_size == 64 and sam.vision_encoder.pos_embed.shape[1] == 8
    assert model.base_name is None


def test_the_positional_tensor_stays_one(tiny_base, tiny_sam):
    for base in (tiny_base, tiny_sam()):
        model = MSAModel.from_base(base)
        a, b = (
            model.shared_image_embedding.positional_embedding,
            model.prompt_encoder.shared_embedding.positional_embedding,
        )
        assert a.data_ptr() == b.data_ptr()


def test_shipped_base_goes_by_its_name(tiny_base, tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("medsam_adapter.backbones").backbones.EMBEDDED, "sam-tiny", tiny_base)
    model = MSAModel.from_base("sam-tiny", small())
    model.save_pretrained(tmp_path)
    assert json.loads((tmp_path / "adapter_config.json").read_text())["base_model_name_or_path"] == "sam-tiny"
    assert MSAModel.from_pretrained(tmp_path).base_name == "sam-tiny"


def test_labels_and_slices_are_kept(tiny_base, tmp_path):
    model = MSAModel.from_base(tiny_base, small(use_depth=True), id2label={1: "spleen", 2: "left kidney"})
    model.save_pretrained(tmp_path)
    read = MSAModel.from_pretrained(tmp_path)
    assert read.config.id2label == {1: "spleen", 2: "left kidney"} and read.config.num_slices == 4


def test_a_plain_sam_is_saved_whole(tiny_base, inputs_for, tmp_path):
    model = MSAModel.from_base(tiny_base)
    model.save_pretrained(tmp_path)
    assert torch.equal(masks(MSAModel.from_pretrained(tmp_path), inputs_for("2D")), masks(model, inputs_for("2D")))


def test_not_a_sam(tmp_path):
    (tmp_path / "config.json").write_text('{"model_type": "bert"}')
    with pytest.raises(CheckpointError, match="not a SAM") as caught:
        MSAModel.from_pretrained(tmp_path)
    assert str(tmp_path) in str(caught.value) and caught.value.found == "bert"


# -- image size --------------------------------------------------------------------------------------------------------


def test_another_size_there_and_back(tiny_base, inputs_for):
    model = MSAModel.from_base(tiny_base)
    set_image_size(model, 96)
    set_image_size(model, 64)
    assert model.vision_encoder.pos_embed.shape == (1, 8, 8, 32)
    assert model.vision_encoder.layers[1].attn.rel_pos_h.shape[0] == 15
    assert masks(model, inputs_for("2D")).shape == (2, 1, 1, 32, 32)
    before = MSAModel.from_base(tiny_base).vision_encoder.pos_embed
    assert torch.corrcoef(torch.stack([model.vision_encoder.pos_embed.flatten(), before.flatten()]))[0, 1] > 0.9


@pytest.mark.parametrize("with_adapter", [False, True])
def test_positions_are_interpolated_as_sam_does_at_run_time(tiny_base, randomise, with_adapter):
    """SAM resizes relative positions at each call; once and for all must give the same numbers."""
    model = randomise(MSAModel.from_base(tiny_base, small() if with_adapter else None)).requires_grad_(False)
    at_run_time = randomise(MSAModel.from_base(tiny_base, small() if with_adapter else None)).requires_grad_(False)
    at_run_time.load_state_dict(model.state_dict())
    set_image_size(model, 96)
    at_run_time.vision_encoder.pos_embed = model.vision_encoder.pos_embed
    at_run_time.vision_encoder.patch_embed.image_size = (96, 96)
    pixels = torch.randn(2, 3, 96, 96)
    layers = [getattr(x, "base_layer", x) for x in model.vision_encoder.layers]
    assert layers[1].attn.rel_pos_h.shape[0] == 23 and layers[0].attn.rel_pos_h.shape[0] == 9
    assert torch.equal(model.encode(pixels), at_run_time.encode(pixels))


def test_every_cached_size_follows(tiny_base):
    """A model whose size was changed equals one built in that size with its weights."""
    changed = MSAModel.from_base(tiny_base, image_size=96)
    config = MSAConfig.from_sam(changed.config)
    built = MSAModel(config).eval().requires_grad_(False)
    built.load_state_dict(changed.state_dict())
    inputs = {"pixel_values": torch.randn(1, 3, 96, 96), "input_points": torch.tensor([[[[90.0, 70.0]]]])}
    assert torch.equal(masks(changed, inputs), masks(built, inputs))
    assert masks(changed, {"pixel_values": inputs["pixel_values"]}).shape[-1] == 48


@pytest.mark.parametrize("full", [False, True])
def test_another_size_is_saved(tiny_base, randomise, tmp_path, full):
    model = randomise(MSAModel.from_base(tiny_base, small(), image_size=96)).requires_grad_(False)
    model.save_pretrained(tmp_path, full=full)
    read = MSAModel.from_pretrained(tmp_path)
    inputs = {"pixel_values": torch.randn(1, 3, 96, 96), "input_points": torch.tensor([[[[90.0, 70.0]]]])}
    assert read.state_dict().keys() == model.state_dict().keys()
    assert all(torch.equal(value, model.state_dict()[name]) for name, value in read.state_dict().items())
    # not torch.equal: matrix products round by where a weight lies in memory, and a mapped file has its own offsets
    torch.testing.assert_close(masks(read.requires_grad_(False), inputs), masks(model, inputs), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("size", [60, 4, 100])
def test_a_size_the_patch_does_not_divide(tiny_base, size):
    with pytest.raises(CheckpointError, match="multiple of its patch size, 8") as caught:
        MSAModel.from_base(tiny_base, image_size=size)
    hinted = int(caught.value.hint.split()[-1])
    assert hinted % 8 == 0 and hinted >= 8 and abs(hinted - size) <= 4


# -- forward -----------------------------------------------------------------------------------------------------------


def test_shapes_for_pictures_and_volumes(tiny_base, inputs_for):
    model = MSAModel.from_base(tiny_base, small(use_depth=True))
    for dims, lead in (("2D", (2,)), ("3D", (2, 3))):
        inputs = inputs_for(dims, objects=3)
        out = model(**inputs, multimask_output=True)
        assert out.pred_masks.shape == (*lead, 3, 3, 32, 32) and out.iou_scores.shape == (*lead, 3, 3)
        assert out.image_embeddings.shape == (*lead, 32, 8, 8) and out.loss is None
        embeddings = model.get_image_embeddings(inputs["pixel_values"])
        assert embeddings.shape == (*lead, 32, 8, 8) and not embeddings.requires_grad
        again = {**inputs, "pixel_values": None, "image_embeddings": embeddings}
        assert torch.equal(masks(model, again), masks(model, inputs))


def test_several_objects_are_those_of_sam(tiny_base, inputs_for):
    inputs = inputs_for("2D", objects=3)
    with torch.no_grad():
        want = SamModel.from_pretrained(tiny_base)(**inputs, multimask_output=True)
        got = MSAModel.from_base(tiny_base)(**inputs, multimask_output=True)
    torch.testing.assert_close(got.pred_masks, want.pred_masks, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(got.iou_scores, want.iou_scores, rtol=1e-4, atol=1e-5)


def test_points_without_a_slice_axis_stand_on_every_slice(tiny_base, inputs_for):
    model, inputs = MSAModel.from_base(tiny_base), inputs_for("3D", objects=2)
    once = {name: value[:, 0] if name != "pixel_values" else value for name, value in inputs.items()}
    each = {name: value[:, :1].expand_as(value) if name != "pixel_values" else value for name, value in inputs.items()}
    assert torch.equal(masks(model, once), masks(model, each))
    boxes = torch.tensor([[[5.0, 5, 30, 40], [1, 2, 60, 50]]] * 2)
    got = masks(model, {"pixel_values": inputs["pixel_values"], "input_boxes": boxes})
    want = masks(model, {"pixel_values": inputs["pixel_values"], "input_boxes": boxes[:, None].expand(2, 3, 2, 4)})
    assert torch.equal(got, want)


def test_each_object_has_its_own_mask_prompt(tiny_base, inputs_for):
    model, inputs = MSAModel.from_base(tiny_base), inputs_for("2D", objects=2)
    prompts = torch.randn(2, 2, 32, 32)
    before = masks(model, {**inputs, "input_masks": prompts})
    prompts[0, 1] += 3
    moved = (masks(model, {**inputs, "input_masks": prompts}) - before).abs().amax((2, 3, 4))
    assert moved[0, 1] > 1e-4 and moved[0, 0] == 0 and moved[1].max() == 0
    assert masks(model, {"pixel_values": inputs["pixel_values"], "input_masks": prompts}).shape == (2, 2, 1, 32, 32)


def test_labels_are_all_one_by_default(tiny_base, inputs_for):
    model, inputs = MSAModel.from_base(tiny_base), inputs_for("2D")
    ones = {**inputs, "input_labels": torch.ones_like(inputs["input_labels"])}
    del inputs["input_labels"]
    assert torch.equal(masks(model, inputs), masks(model, ones))


def test_without_a_prompt_the_picture_is_the_box(tiny_base, inputs_for):
    model = MSAModel.from_base(tiny_base)
    for dims, lead in (("2D", (2,)), ("3D", (2, 3))):
        pixels = inputs_for(dims)["pixel_values"]
        box = torch.tensor([0.0, 0, 63, 63]).expand(*lead, 1, 4)
        got = masks(model, {"pixel_values": pixels})
        assert torch.equal(got, masks(model, {"pixel_values": pixels, "input_boxes": box}))


def test_slices_that_fill_up_do_not_count_in_the_loss(tiny_base, inputs_for):
    model, inputs = MSAModel.from_base(tiny_base, small(use_depth=True)), inputs_for("3D", batch=1, slices=4)
    labels, mask = torch.zeros(1, 4, 1, 64, 64), torch.tensor([[True, True, True, False]])
    labels[..., 10:40, 10:40] = 1
    short = {k: v[:, :3] for k, v in inputs.items()}
    want = model(**short, labels=labels[:, :3]).loss
    labels[:, 3] = 1 - labels[:, 3]
    torch.testing.assert_close(model(**inputs, labels=labels, slice_mask=mask).loss, want, rtol=1e-5, atol=1e-6)
    assert (model(**inputs, labels=labels).loss - want).abs() > 1e-4


@pytest.mark.parametrize("dims", ["2D", "3D"])
def test_the_loss_is_small_where_the_logits_fit(tiny_base, inputs_for, dims):
    model, inputs = MSAModel.from_base(tiny_base), inputs_for(dims)
    logits = masks(model, inputs)
    right = torch.nn.functional.interpolate((logits > 0).float().flatten(0, -4), scale_factor=2)[:, 0]
    right = right.unflatten(0, logits.shape[:-3])
    sure = torch.where(logits > 0, 9.0, -9.0)
    fit, wrong = (best_mask_loss(sure, target) for target in (right, 1 - right))
    assert fit < 0.1 and wrong > 5
    out = model(**inputs, labels=right)
    assert out.loss.ndim == 0 and torch.equal(out.loss, best_mask_loss(out.pred_masks, right))


def test_the_best_of_three_masks_makes_the_loss():
    logits = torch.full((1, 1, 3, 32, 32), -9.0)
    logits[0, 0, 1, 5:20, 5:20] = 9
    target = torch.zeros(1, 1, 64, 64)
    target[..., 10:40, 10:40] = 1
    assert best_mask_loss(logits, target) < 0.01


def test_training_lowers_the_loss(tiny_base, inputs_for):
    torch.manual_seed(0)
    model, inputs = MSAModel.from_base(tiny_base, small()).train(), inputs_for("2D")
    labels = torch.zeros(2, 1, 64, 64)
    labels[..., 10:40, 20:50] = 1
    optimizer = torch.optim.Adam([p for p in model.parameters() if p.requires_grad], lr=3e-2)
    losses = []
    for _ in range(15):
        optimizer.zero_grad()
        loss = model(**inputs, labels=labels).loss
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0] - 0.03 and losses[-1] == min(losses)


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"pixel_values": None}, "exactly one"),
        ({"image_embeddings": torch.zeros(2, 32, 8, 8)}, "exactly one"),
        ({"pixel_values": torch.zeros(3, 64, 64)}, r"\(B, 3, H, W\)"),
        ({"input_points": torch.zeros(2, 1, 2)}, "input_points does not fit"),
        ({"input_points": torch.zeros(1, 1, 2, 2)}, "input_points does not fit"),
        ({"input_labels": torch.zeros(2, 3, 1, 2)}, "input_labels does not fit"),
        ({"input_boxes": torch.zeros(3, 1, 4)}, "input_boxes does not fit"),
        ({"input_masks": torch.zeros(2, 32, 32)}, "input_masks does not fit"),
    ],
)
def test_forward_refuses(tiny_base, inputs_for, change, text):
    with pytest.raises(PromptError, match=text):
        MSAModel.from_base(tiny_base)(**{**inputs_for("2D"), **change})


# -- wrong files -------------------------------------------------------------------------------------------------------


def refused(folder, text):
    with pytest.raises(CheckpointError, match=text) as caught:
        MSAModel.from_pretrained(folder)
    assert str(folder) in str(caught.value) and caught.value.hint, str(caught.value)
    return caught.value


def test_another_kind_of_adapter(tiny_base, tmp_path):
    ia3 = get_peft_model(SamModel.from_pretrained(tiny_base), IA3Config(target_modules=["qkv"], feedforward_modules=[]))
    ia3.save_pretrained(tmp_path)
    assert refused(tmp_path, "another kind of adapter").found == "IA3"


def test_a_lora_for_another_architecture(tmp_path):
    bert = BertConfig(hidden_size=8, num_hidden_layers=1, num_attention_heads=1, intermediate_size=8, vocab_size=9)
    BertModel(bert).save_pretrained(tmp_path / "bert")
    lora = get_peft_model(BertModel.from_pretrained(tmp_path / "bert"), LoraConfig(target_modules=["query"]))
    lora.save_pretrained(tmp_path / "lora")
    found = refused(tmp_path / "lora", "another kind of adapter").found
    assert found == f"LORA on {tmp_path / 'bert'}, a model of type bert"


def test_a_lora_that_does_not_fit_its_base(tiny_base, tmp_path):
    get_peft_model(SamModel.from_pretrained(tiny_base), LoraConfig(target_modules=["qkv"])).save_pretrained(tmp_path)
    edit_json(tmp_path / "adapter_config.json", target_modules=["nothing_of_this_name"])
    assert "nothing_of_this_name" in refused(tmp_path, "does not fit its base").found
    edit_json(tmp_path / "adapter_config.json", target_modules=["qkv", "proj"])
    assert "6 missing" in refused(tmp_path, "does not fit its base").found


def edit_json(path, **changes):
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def test_a_base_that_is_not_there(adapter_folder):
    edit_json(adapter_folder / "adapter_config.json", base_model_name_or_path=str(adapter_folder / "gone"))
    assert "gone" in refused(adapter_folder, "cannot be opened").problem


def test_a_base_that_is_not_recorded(adapter_folder):
    edit_json(adapter_folder / "adapter_config.json", base_model_name_or_path=None)
    assert "base_model_name_or_path" in refused(adapter_folder, "which SAM").expected


def test_an_unknown_method(adapter_folder):
    edit_json(adapter_folder / "adapter_config.json", peft_type="NO_SUCH_METHOD")
    refused(adapter_folder, "cannot be read")


def test_broken_json(adapter_folder):
    (adapter_folder / "adapter_config.json").write_text('{"peft_type": ')
    refused(adapter_folder, "cannot be read")


def test_a_wrong_value(adapter_folder):
    edit_json(adapter_folder / "adapter_config.json", prompt_fusion="sum")
    assert "add, concat, hyper, none" in refused(adapter_folder, "cannot be read").found


def test_an_adapter_of_another_width(adapter_folder, tiny_sam, tmp_path):
    wide = tmp_path / "wide"
    tiny_sam(hidden_size=64, num_heads=4).save_pretrained(wide)
    edit_json(adapter_folder / "adapter_config.json", base_model_name_or_path=str(wide))
    assert "another shape" in refused(adapter_folder, "does not fit its base").found


def test_an_adapter_of_a_deeper_base(adapter_folder, tiny_sam, tmp_path):
    shallow = tmp_path / "shallow"
    tiny_sam(num_layers=2).save_pretrained(shallow)
    edit_json(adapter_folder / "adapter_config.json", base_model_name_or_path=str(shallow))
    assert "unknown" in refused(adapter_folder, "does not fit its base").found


def test_another_configuration_than_the_weights(adapter_folder):
    edit_json(adapter_folder / "adapter_config.json", prompt_fusion="concat")
    assert "missing" in refused(adapter_folder, "does not fit its base").found


@pytest.mark.parametrize("damage", ["cut", "empty", "text", "missing"])
def test_a_damaged_file(adapter_folder, damage):
    path = adapter_folder / "adapter_model.safetensors"
    content = path.read_bytes()
    path.unlink()
    if damage != "missing":
        path.write_bytes({"cut": content[: len(content) // 2], "empty": b"", "text": b"<html>404</html>"}[damage])
    refused(adapter_folder, "adapter_model.safetensors cannot be read")


# -- transformers' and PEFT's doors ------------------------------------------------------------------------------------


def test_auto_classes_open_the_folder(adapter_folder, inputs_for, tmp_path):
    want, inputs = MSAModel.from_pretrained(adapter_folder).requires_grad_(False), inputs_for("2D")
    assert isinstance(AutoConfig.from_pretrained(adapter_folder), MSAConfig)
    full = tmp_path / "full"
    want.save_pretrained(full, full=True)
    for auto in (AutoModel, AutoModelForMaskGeneration):
        for folder in (adapter_folder, full):
            model = auto.from_pretrained(folder)
            assert type(model) is MSAModel
            assert torch.equal(masks(model.requires_grad_(False), inputs), masks(want, inputs))


def test_a_moved_folder_opens(adapter_folder, inputs_for, tmp_path):
    want = masks(MSAModel.from_pretrained(adapter_folder), inputs_for("2D"))
    moved = shutil.move(adapter_folder, tmp_path / "elsewhere")
    assert torch.equal(masks(MSAModel.from_pretrained(moved), inputs_for("2D")), want)


def test_configuration_from_sam_keeps_sizes(tiny_base):
    sam = SamModel.from_pretrained(tiny_base).config
    config = MSAConfig.from_sam(sam, num_slices=6)
    assert config.num_slices == 6 and config.vision_config.to_dict() == sam.vision_config.to_dict()
    assert config.vision_config is not sam.vision_config


def test_registering_twice_changes_nothing():
    before = dict(peft.mapping.PEFT_TYPE_TO_TUNER_MAPPING)
    register_peft_method()
    assert before == peft.mapping.PEFT_TYPE_TO_TUNER_MAPPING


TABLES = ["PEFT_TYPE_TO_CONFIG_MAPPING", "PEFT_TYPE_TO_TUNER_MAPPING", "PEFT_TYPE_TO_PREFIX_MAPPING"]


@pytest.mark.parametrize("table", TABLES)
def test_registering_without_pefts_table_says_so(monkeypatch, table):
    monkeypatch.delattr(peft.mapping, table)
    with pytest.raises(RuntimeError, match=f"no peft.mapping.{table}.*peft 0.21"):
        register_peft_method()


@pytest.mark.parametrize("table", TABLES)
def test_registering_beside_another_package_says_so(monkeypatch, table):
    monkeypatch.setitem(getattr(peft.mapping, table), MSAPeftType.MSA_ADAPTER, "theirs")
    with pytest.raises(RuntimeError, match="another package"):
        register_peft_method()
