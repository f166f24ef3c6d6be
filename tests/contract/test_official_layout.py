"""Converted checkpoints of the authors' public code compute what that code computed, to 1e-4."""

from __future__ import annotations

import contextlib

import pytest
import torch
from peft import PeftModel
from torch.testing import assert_close
from transformers import SamModel

import official_code
from medsam_adapter.adapters.config import MSAAdapterConfig
from medsam_adapter.adapters.fast_layer import plain_attention
from medsam_adapter.adapters.official_block import folded_sides
from medsam_adapter.errors import CheckpointError
from medsam_adapter.hub.convert.checkpoint_file import Checkpoint
from medsam_adapter.hub.convert.official_msa import OfficialChoices, convert_official
from medsam_adapter.image_size import set_image_size
from medsam_adapter.modeling_msa import MSAModel

WINDOWS, HEAD_SIZE, GRID, LAYERS = [5, 0, 5], 16, 8, 3  # of the tiny SAM: 8 x 8 tokens in 5 x 5 windows, padded
CHUNK = 6


@pytest.fixture(scope="module")
def state(tiny_sam):
    """A checkpoint's weights; LayerNorm 1 has a bias that shows in padded tokens."""
    sam = tiny_sam()
    for layer in sam.vision_encoder.layers:
        torch.nn.init.normal_(layer.layer_norm1.bias, std=0.5, generator=torch.Generator().manual_seed(3))
    return official_code.sam_part(sam) | official_code.adapters(32, LAYERS)


@pytest.fixture(scope="module")
def base(tiny_sam, tmp_path_factory, state):
    """The SAM of `state`, as a folder."""
    sam = tiny_sam()
    sam.load_state_dict({name: state[official_code.meta_name(name)] for name in sam.state_dict()})
    folder = tmp_path_factory.mktemp("official") / "base"
    sam.save_pretrained(folder)
    return str(folder)


@pytest.fixture
def convert(base, tmp_path):
    """convert(state, **choices) -> the model of the converted folder."""

    def make(given, **choices):
        checkpoint = Checkpoint(tmp_path / "best.pth", given)
        convert_official(checkpoint, tmp_path / "converted", OfficialChoices(**{"base": base, **choices}))
        return MSAModel.from_pretrained(tmp_path / "converted")

    return make


def pixels(count: int, size: int = 64, seed: int = 0):
    return torch.randn(count, 3, size, size, generator=torch.Generator().manual_seed(seed))


def embeddings(model, given, slices: int | None = None, mask=None):
    """`given` (N, 3, S, S), for volumes of so many slices."""
    images = given if slices is None else given.unflatten(0, (-1, slices))
    out = model.get_image_embeddings(images, mask)
    return out if slices is None else out.flatten(0, 1)


PATHS = (contextlib.nullcontext, plain_attention)


@pytest.mark.parametrize("lost", ["all", "windowed", "none"])
def test_images(convert, state, lost):
    given = state if lost == "all" else official_code.without_positions(state, lost, WINDOWS, GRID)
    model, images = convert(given, dims="2d"), pixels(2)
    want = official_code.encoder(given, images, WINDOWS, HEAD_SIZE)
    for path in PATHS:
        with path():
            assert_close(embeddings(model, images), want, rtol=1e-4, atol=1e-4)
    model.disable_adapters()
    assert (embeddings(model, images) - want).abs().max() > 0.05


@pytest.mark.parametrize("lost", ["all", "windowed", "none"])
def test_volumes(convert, state, lost):
    """Two volumes of six slices: with four windows a slice, a depth sequence holds a slice and a half."""
    given = state if lost == "all" else official_code.without_positions(state, lost, WINDOWS, GRID)
    model, images = convert(given, dims="3d", slices=CHUNK), pixels(2 * CHUNK)
    assert model.config.num_slices == CHUNK
    want = official_code.encoder(given, images, WINDOWS, HEAD_SIZE, CHUNK)
    for path in PATHS:
        with path():
            assert_close(embeddings(model, images, CHUNK), want, rtol=1e-4, atol=1e-4)
    assert (embeddings(model, images) - want).abs().max() > 0.05  # depth does count


def test_a_volume_in_pieces(convert, state, monkeypatch):
    """Long volumes are attended to a part of their depth sequences at a time."""
    model, images = convert(state, dims="3d", slices=CHUNK), pixels(CHUNK)
    want = embeddings(model, images, CHUNK)
    monkeypatch.setattr("medsam_adapter.adapters.official_block.SEQUENCES_AT_ONCE", 7)
    assert_close(embeddings(model, images, CHUNK), want, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("index", [0, 1], ids=["windowed", "global"])
@pytest.mark.parametrize("slices", [2, 4])
def test_each_block(convert, state, index, slices):
    layer = convert(state, dims="3d", slices=slices).vision_encoder.layers[index]
    tokens = torch.randn(2 * slices, GRID, GRID, 32, generator=torch.Generator().manual_seed(5))
    with torch.no_grad():
        got = layer.forward(tokens, num_slices=slices)
    want = official_code.block(state, index, tokens, WINDOWS[index], HEAD_SIZE, slices)
    assert_close(got, want, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("index", [0, 1], ids=["windowed", "global"])
def test_the_papers_block_is_another(convert, state, index):
    """So that the tests above can fail: without the mode each of the two blocks gives something else."""
    model = convert(state, dims="3d", slices=4)
    layer, tokens = model.vision_encoder.layers[index], torch.randn(4, GRID, GRID, 32)
    with torch.no_grad():
        official = layer.forward(tokens, num_slices=4), layer.forward(tokens)
        layer.modes["default"] = (None, "all")
        papers = layer.forward(tokens, num_slices=4), layer.forward(tokens)
    assert (official[0] - papers[0]).abs().max() > 0.01
    assert index == 1 or (official[1] - papers[1]).abs().max() > 0.01  # padding; global blocks have none


@pytest.mark.parametrize("size", [48, 96])
def test_another_image_size(convert, state, size):
    """The global tables are resized to the size, and those of the folded depth are made of the base's, not of these."""
    model, images = convert(state, dims="3d", slices=4, image_size=size), pixels(4, size)
    assert model.config.vision_config.image_size == size
    want = official_code.encoder(state, images, WINDOWS, HEAD_SIZE, 4)
    assert_close(embeddings(model, images, 4), want, rtol=1e-4, atol=1e-4)
    set_image_size(model, 64)  # once more: still from the base's
    table = model.vision_encoder.layers[1].base_layer.attn.original_rel_pos_h
    assert_close(table, state["image_encoder.blocks.1.attn.rel_pos_h"])


@pytest.mark.parametrize("filled", [[2, 6], [1, 3], [0, 6]])
def test_slices_that_fill_up_a_chunk_are_as_if_not_there(convert, state, filled):
    model, images = convert(state, dims="3d", slices=CHUNK), pixels(2 * CHUNK)
    mask = torch.arange(CHUNK)[None] < torch.tensor(filled)[:, None]
    got = embeddings(model, images, CHUNK, mask).unflatten(0, (2, CHUNK))
    assert got.isfinite().all()
    for number, real in enumerate(filled):
        if real:
            alone = images.unflatten(0, (2, CHUNK))[number, :real]
            assert_close(got[number, :real], embeddings(model, alone, real), rtol=1e-4, atol=1e-4)
    other = images.clone()
    other.unflatten(0, (2, CHUNK))[~mask] = 7.0
    again = embeddings(model, other, CHUNK, mask).unflatten(0, (2, CHUNK))
    assert_close(again[mask], got[mask], rtol=1e-5, atol=1e-5)


def test_depth_is_folded_as_the_public_code_folds_it():
    for number in range(2, 130):
        assert folded_sides(number) == official_code.folded(number), number


def test_one_slice_is_computed_although_the_public_code_never_ends():
    assert folded_sides(1) == (1, 1)


def test_clicks_reach_the_prompt_encoder_in_the_order_of_the_training(convert, state, base, inputs_for):
    """Swapped ones exactly where the checkpoint brings its own decoder."""
    given = official_code.trained_decoder(state)
    model, inputs = convert(given, dims="2d"), inputs_for("2D")
    swapped = {**inputs, "input_points": inputs["input_points"].flip(-1)}
    plain = SamModel.from_pretrained(base)
    with torch.no_grad():
        sam = model.prompt_encoder(inputs["input_points"][:, 0, None], inputs["input_labels"][:, 0, None], None, None)[
            0
        ]
        want = plain.prompt_encoder(
            swapped["input_points"][:, 0, None], inputs["input_labels"][:, 0, None], None, None
        )[0]
        assert torch.equal(sam, want)
        boxes = torch.tensor([[[3.0, 4.0, 40.0, 50.0]]])
        assert torch.equal(
            model.prompt_encoder(None, None, boxes, None)[0], plain.prompt_encoder(None, None, boxes, None)[0]
        )
        on = model(**inputs).pred_masks
        assert (model(**swapped).pred_masks - on).abs().max() > 1e-4
        off = model(**inputs, adapter=()).pred_masks
        assert_close(off, MSAModel.from_pretrained(base)(**inputs).pred_masks)
        assert torch.equal(model(**inputs, adapter="default").pred_masks, on)


def test_clicks_of_other_adapters_stay_as_they_are(base, inputs_for):
    """Also where the prompt encoder is wrapped for texts."""
    given = {name: value[:, 0, None] for name, value in inputs_for("2D").items() if name != "pixel_values"}
    config = MSAAdapterConfig(use_text=True, text_width=12, compatibility="official")
    with torch.no_grad():
        got = MSAModel.from_base(base, config).prompt_encoder(given["input_points"], given["input_labels"])[0]
        want = SamModel.from_pretrained(base).prompt_encoder(given["input_points"], given["input_labels"], None, None)[
            0
        ]
    assert torch.equal(got, want)


def test_the_trained_decoder_answers(convert, state, inputs_for):
    """The decoder of the checkpoint, on the encoder's output, gives the masks; the base's would give others."""
    given, inputs = official_code.trained_decoder(state), inputs_for("2D")
    model = convert(given, dims="2d")
    decoder = model.mask_decoder.modules_to_save["default"].state_dict()
    for name, value in decoder.items():
        assert torch.equal(value, given[official_code.meta_name(f"mask_decoder.{name}")]), name
    with torch.no_grad():
        masks = model(**inputs).pred_masks
        model.mask_decoder.set_adapter([])
        assert (model(**inputs).pred_masks - masks).abs().max() > 1e-3


def test_all_doors(convert, state, base, tmp_path):
    model, images = convert(state, dims="2d"), pixels(2)
    want = embeddings(model, images)
    peft = PeftModel.from_pretrained(SamModel.from_pretrained(base), tmp_path / "converted").eval()
    sam = SamModel.from_pretrained(base)
    sam.load_adapter(str(tmp_path / "converted"))
    for door in (peft.base_model.model, sam):
        door.requires_grad_(False)
        assert_close(door.get_image_embeddings(images), want, rtol=1e-5, atol=1e-5)
    model.save_pretrained(tmp_path / "full", full=True)
    assert_close(embeddings(MSAModel.from_pretrained(tmp_path / "full"), images), want, rtol=1e-5, atol=1e-5)


def test_beside_an_adapter_of_the_papers_block(convert, state, base, randomise):
    model, images = convert(state, dims="2d"), pixels(2)
    official = embeddings(model, images)
    torch.manual_seed(0)
    model.add_msa_adapter(MSAAdapterConfig(use_decoder=False), "paper")
    randomise(model, only=".paper.")
    paper = embeddings(model, images)
    torch.manual_seed(0)
    alone = MSAModel.from_base(base, MSAAdapterConfig(use_decoder=False), adapter_name="paper")
    randomise(alone, only=".paper.")
    assert_close(paper, embeddings(alone, images))
    model.set_adapter("default")
    assert_close(embeddings(model, images), official)
    model.set_adapter(["default", "paper"])
    with pytest.raises(CheckpointError, match="different encoder blocks"):
        embeddings(model, images)
    model.delete_adapter("paper")
    assert all(layer.modes.keys() == {"default"} for layer in model.vision_encoder.layers)
    model.set_adapter("default")
    assert_close(embeddings(model, images), official)


@pytest.mark.parametrize("path", PATHS, ids=["fast", "plain"])
def test_it_goes_on_training(state, base, path):
    """Gradients reach every adapter weight, with slices that fill up, too, and are those of the reference."""
    given = {name: value.clone().requires_grad_("Adapter" in name) for name, value in state.items()}
    images = pixels(4)
    official_code.encoder(given, images, WINDOWS, HEAD_SIZE, 4).square().mean().backward()
    config = MSAAdapterConfig(
        bottleneck_ratio=0.25, activation="gelu", use_decoder=False, use_depth=True, num_slices=4,
        compatibility="official",
    )  # fmt: skip
    model = MSAModel.from_base(base, config)
    names = {"space": "Space", "depth": "Depth", "mlp": "MLP", "down": "D_fc1", "up": "D_fc2"}
    pairs = []
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            _, _, number, which, _, layer, part = name.split(".")
            theirs = f"image_encoder.blocks.{number}.{names[which[12:]]}_Adapter.{names[layer]}.{part}"
            parameter.data.copy_(state[theirs])
            pairs.append((parameter, given[theirs]))
    with path():
        model.encode(images[None]).square().mean().backward()
    assert len(pairs) == LAYERS * 12
    for ours, theirs in pairs:
        assert_close(ours.grad, theirs.grad, rtol=1e-3, atol=1e-5)
    model.zero_grad()
    with path():
        model.encode(images[None], torch.tensor([[True, True, True, False]])).square().mean().backward()
    assert all(parameter.grad.isfinite().all() and parameter.grad.abs().max() > 0 for parameter, _ in pairs)


@pytest.mark.parametrize(
    ("values", "text"),
    [
        ({"compatibility": "offical"}, "compatibility"),
        ({"compatibility": "official", "relative_positions": "some"}, "relative_positions"),
        ({"relative_positions": "none"}, "belong to compatibility"),
        ({"swap_clicks": True}, "belong to compatibility"),
        ({"compatibility": "official", "use_depth": True, "depth_bias": True}, "depth_bias"),
    ],
)
def test_impossible_modes_are_refused(values, text):
    with pytest.raises(ValueError, match=text):
        MSAAdapterConfig(**values)
