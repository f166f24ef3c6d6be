"""What an adapter with text prompts keeps: SAM without a text, a projection in its own file, through every door."""

from __future__ import annotations

import copy

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file, save_file
from transformers import SamModel

from medsam_adapter.adapters.config import MSAAdapterConfig
from medsam_adapter.adapters.files import start_from_adapter
from medsam_adapter.adapters.prompt_encoder import MSAPromptEncoder
from medsam_adapter.errors import CheckpointError, PromptError
from medsam_adapter.image_size import set_image_size
from medsam_adapter.modeling_msa import MSAModel
from medsam_adapter.prompts.decode import decode_masks
from medsam_adapter.prompts.text import load_text_encoder

SPLEEN, LIVER = "the spleen", "the liver"


@pytest.fixture
def spoken(tiny_base, tiny_clip, randomise):
    """A model with text prompts and random adapter weights."""

    def make(adapter_name="default", seed=1, **changes):
        values = dict(use_text=True, text_model=tiny_clip, text_width=12, bottleneck_ratio=0.25)
        config = MSAAdapterConfig(**{**values, **changes})
        return randomise(MSAModel.from_base(tiny_base, config, adapter_name=adapter_name), seed).requires_grad_(False)

    return make


@torch.no_grad()
def masks(model, pixels, **prompts):
    return model(pixel_values=pixels, **prompts).pred_masks


@pytest.fixture
def pixels(inputs_for):
    return inputs_for()["pixel_values"][:1]


def test_without_a_text_a_fresh_adapter_is_sam(plain_attention, tiny_base, tiny_clip, inputs_for):
    sam = SamModel.from_pretrained(tiny_base).requires_grad_(False)
    config = MSAAdapterConfig(use_text=True, text_model=tiny_clip, text_width=12)
    model = MSAModel.from_base(tiny_base, config).requires_grad_(False)
    inputs = inputs_for()
    with torch.no_grad():
        assert torch.equal(
            model(**inputs, multimask_output=True).pred_masks, sam(**inputs, multimask_output=True).pred_masks
        )


def test_what_is_said_changes_the_mask_and_strings_are_their_embeddings(spoken, pixels, tiny_clip):
    model = spoken()
    spleen, liver = masks(model, pixels, input_texts=[SPLEEN]), masks(model, pixels, input_texts=[LIVER])
    assert spleen.shape == (1, 1, 1, 32, 32) and (spleen - liver).abs().max() > 1e-3
    embedded = load_text_encoder(tiny_clip)([SPLEEN, LIVER])[None]
    both = masks(model, pixels, input_texts=embedded)
    torch.testing.assert_close(both, torch.cat([spleen, liver], 1), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(masks(model, pixels, input_texts=[[SPLEEN, LIVER]]), both)


def test_a_text_goes_along_with_points_boxes_and_masks(spoken, pixels):
    model = spoken()
    prompts = {
        "input_points": torch.tensor([[[[20.0, 30.0]]]]),
        "input_boxes": torch.tensor([[[5.0, 6.0, 40.0, 50.0]]]),
        "input_masks": torch.randn(1, 1, 32, 32),
    }
    for name, value in prompts.items():
        alone, spleen, liver = (
            masks(model, pixels, **{name: value}, **text)
            for text in ({}, {"input_texts": [SPLEEN]}, {"input_texts": [LIVER]})
        )
        assert (alone - spleen).abs().max() > 1e-3 and (spleen - liver).abs().max() > 1e-3, name
        other = masks(model, pixels, **{name: value + 3}, input_texts=[SPLEEN])
        assert (other - spleen).abs().max() > 1e-4, name


def test_a_volume_takes_one_text_for_all_slices(spoken, inputs_for):
    model, volume = spoken(use_depth=True, num_slices=3), inputs_for("3D")["pixel_values"]
    got = masks(model, volume, input_texts=[[SPLEEN], [LIVER]])
    assert got.shape == (2, 3, 1, 1, 32, 32)
    torch.testing.assert_close(got[1:], masks(model, volume[1:], input_texts=[LIVER]), rtol=1e-4, atol=1e-5)


def test_several_tokens(spoken, pixels):
    model = spoken(text_tokens=3)
    with torch.no_grad():
        sparse, dense = model.prompt_encoder(input_texts=torch.randn(2, 1, 12))
    assert sparse.shape == (2, 1, 3, 32) and dense.shape == (2, 32, 8, 8)
    assert masks(model, pixels, input_texts=[SPLEEN]).isfinite().all()


def test_gradients_reach_the_projection(tiny_base, tiny_clip, inputs_for, randomise):
    config = MSAAdapterConfig(use_text=True, text_model=tiny_clip, text_width=12, use_encoder=False)
    model = randomise(MSAModel.from_base(tiny_base, config)).train()
    model(pixel_values=inputs_for()["pixel_values"], input_texts=[[SPLEEN], [LIVER]]).pred_masks.sum().backward()
    trained = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert sum("msa_adapter_text" in name for name in trained) == 4
    for name, parameter in model.named_parameters():
        assert (parameter.grad is not None and parameter.grad.abs().max() > 0) == (name in trained), name


# -- switched off, missing, of another width ---------------------------------------------------------------------------


def test_a_model_without_texts_says_so(tiny_base, spoken, pixels):
    plain = MSAModel.from_base(tiny_base)
    silent = MSAModel.from_base(tiny_base, MSAAdapterConfig())
    off = spoken()
    off.disable_adapters()
    for model in (plain, silent, off):
        with pytest.raises(PromptError, match="takes no text prompts"):
            model(pixel_values=pixels, input_texts=torch.randn(1, 1, 12))
    for model in (plain, silent):
        assert model.text_model is None
        with pytest.raises(PromptError, match="takes no text prompts"):
            model(pixel_values=pixels, input_texts=[SPLEEN])
    assert torch.equal(masks(off, pixels), masks(plain, pixels))


def test_embeddings_of_another_text_model_are_refused(spoken, pixels):
    with pytest.raises(PromptError, match="another text model"):
        spoken()(pixel_values=pixels, input_texts=torch.randn(1, 1, 13))


@pytest.mark.parametrize(
    ("texts", "said"),
    [
        ("the spleen", "one sentence"),
        ([], "as many sentences"),
        ([[SPLEEN], [LIVER]], "1 lists"),
        ([""], "empty"),
        (["spleen " * 40], "longer than the text model's window"),
    ],
)
def test_texts_that_do_not_fit(spoken, pixels, texts, said):
    with pytest.raises(PromptError, match=said):
        spoken()(pixel_values=pixels, input_texts=texts)


def test_impossible_sizes_are_refused():
    for changes in ({"text_width": 0}, {"text_tokens": 0}):
        with pytest.raises(ValueError, match="text_width and text_tokens"):
            MSAAdapterConfig(use_text=True, **changes)


# -- files and doors ---------------------------------------------------------------------------------------------------


def test_the_projection_is_in_the_adapters_file_and_every_door_opens_it(spoken, tiny_base, pixels, tmp_path, tiny_clip):
    model = spoken()
    want = masks(model, pixels, input_texts=[SPLEEN])
    model.save_pretrained(tmp_path)
    names = load_file(tmp_path / "adapter_model.safetensors")
    kept = {name for name in names if name.startswith("base_model.model.prompt_encoder.")}
    assert len(kept) == 4 and all(n.startswith("base_model.model.prompt_encoder.msa_adapter_text.") for n in kept)
    assert all("msa_adapter_" in name for name in names)
    reopened = MSAModel.from_pretrained(tmp_path, adapter_name="other")
    assert reopened.text_model == tiny_clip
    assert torch.equal(masks(reopened, pixels, input_texts=[SPLEEN]), want)
    sam = SamModel.from_pretrained(tiny_base)
    sam.load_adapter(str(tmp_path))
    peft = PeftModel.from_pretrained(SamModel.from_pretrained(tiny_base), tmp_path).eval()
    embedded = load_text_encoder(tiny_clip)([SPLEEN])[None]
    for door in (sam, peft.base_model.model):
        door.requires_grad_(False)
        with torch.no_grad():
            logits, _ = decode_masks(door, door.get_image_embeddings(pixels), input_texts=embedded)
        torch.testing.assert_close(logits, want, rtol=1e-4, atol=1e-5)


def test_a_file_that_also_holds_sams_prompt_encoder_opens(spoken, tiny_base, pixels, tmp_path):
    """As files of text adapters did once."""
    model = spoken()
    want = masks(model, pixels, input_texts=[SPLEEN])
    model.save_pretrained(tmp_path)
    file, sam = tmp_path / "adapter_model.safetensors", SamModel.from_pretrained(tiny_base).state_dict()
    of_sam = {f"base_model.model.{n}": v.clone() for n, v in sam.items() if n.startswith("prompt_encoder.")}
    assert len(of_sam) > 10
    save_file(load_file(file) | of_sam, file)
    assert torch.equal(masks(MSAModel.from_pretrained(tmp_path), pixels, input_texts=[SPLEEN]), want)
    other = spoken(seed=5)
    assert not torch.equal(masks(other, pixels, input_texts=[SPLEEN]), want)
    assert start_from_adapter(other, tmp_path) == len(load_file(file)) - len(of_sam)
    assert torch.equal(masks(other, pixels, input_texts=[SPLEEN]), want)
    stray = {**load_file(file), "base_model.model.mask_decoder.iou_token.weight": sam["mask_decoder.iou_token.weight"]}
    save_file(stray, file)
    with pytest.raises(CheckpointError, match="1 unknown"):
        MSAModel.from_pretrained(tmp_path)


def test_a_full_save_keeps_sams_names(spoken, tiny_base, pixels, tmp_path):
    model = spoken()
    model.save_pretrained(tmp_path, full=True)
    names = set(load_file(tmp_path / "model.safetensors"))
    of_sam = {n for n in SamModel.from_pretrained(tiny_base).state_dict() if n.startswith("prompt_encoder.")}
    assert of_sam - names <= {"prompt_encoder.shared_embedding.positional_embedding"}  # tied: stored once
    want = masks(model, pixels, input_texts=[SPLEEN])
    torch.testing.assert_close(
        masks(MSAModel.from_pretrained(tmp_path), pixels, input_texts=[SPLEEN]), want, rtol=1e-4, atol=1e-5
    )


def test_each_adapter_has_its_own_projection(spoken, pixels, tmp_path):
    alone = {}
    for seed, name in enumerate("ab"):
        model = spoken(name, seed)
        model.save_pretrained(tmp_path / name)
        alone[name] = masks(model, pixels, input_texts=[SPLEEN])
    silent = MSAModel.from_base(model.base_name, MSAAdapterConfig(), adapter_name="silent")
    for name in "ab":
        silent.load_adapter(str(tmp_path / name), adapter_name=name)
    for name in "aba":
        silent.set_adapter(name)
        assert torch.equal(masks(silent, pixels, input_texts=[SPLEEN]), alone[name])
    silent.set_adapter("silent")
    with pytest.raises(PromptError, match="takes no text prompts"):
        silent(pixel_values=pixels, input_texts=torch.randn(1, 1, 12))
    silent.delete_adapter("a")
    silent.set_adapter("b")
    assert torch.equal(masks(silent, pixels, input_texts=[SPLEEN]), alone["b"])


def test_copies_are_independent_and_unloading_gives_sam_back(spoken, pixels, tiny_base, randomise, tiny_clip):
    model = spoken()
    before = masks(model, pixels, input_texts=[SPLEEN])
    randomise(copied := copy.deepcopy(model), seed=9)
    assert not torch.equal(masks(copied, pixels, input_texts=[SPLEEN]), before)
    assert torch.equal(masks(model, pixels, input_texts=[SPLEEN]), before)
    encoder = copied.prompt_encoder
    assert encoder.base_layer.mask_embed is encoder.mask_embed is not model.prompt_encoder.mask_embed
    config = MSAAdapterConfig(use_text=True, text_model=tiny_clip, text_width=12)
    from peft import get_peft_model

    unloaded = get_peft_model(SamModel.from_pretrained(tiny_base), config).unload()
    assert not isinstance(unloaded.prompt_encoder, MSAPromptEncoder)
    assert unloaded.state_dict().keys() == SamModel.from_pretrained(tiny_base).state_dict().keys()


def test_another_image_size(spoken, tiny_base):
    model, plain = spoken(use_encoder=False), MSAModel.from_base(tiny_base)
    for each in (model, plain):
        set_image_size(each, 96)
    pixels = torch.randn(1, 3, 96, 96)
    assert masks(model, pixels, input_texts=[SPLEEN]).shape[-2:] == (48, 48)
    assert model.prompt_encoder.base_layer.image_embedding_size == plain.prompt_encoder.image_embedding_size


def test_autocast(spoken, pixels):
    model = spoken()
    with torch.autocast("cpu", torch.bfloat16):
        got = masks(model, pixels, input_texts=[SPLEEN])
    torch.testing.assert_close(got.float(), masks(model, pixels, input_texts=[SPLEEN]), rtol=0.1, atol=0.1)
