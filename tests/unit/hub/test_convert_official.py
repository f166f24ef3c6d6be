"""Checkpoints of the authors' public code to adapter repos and back: what is kept, found out, said and refused."""

from __future__ import annotations

import json

import pytest
import torch
from huggingface_hub import ModelCard
from safetensors.torch import load_file

import official_code
from medsam_adapter.adapters.config import MSAAdapterConfig
from medsam_adapter.cli.main import run
from medsam_adapter.errors import CheckpointError
from medsam_adapter.hub.convert.checkpoint_file import Checkpoint, read_checkpoint
from medsam_adapter.hub.convert.official_adapters import adapter_key, read_adapters
from medsam_adapter.hub.convert.official_msa import OfficialChoices, convert_official
from medsam_adapter.hub.convert.to_official import convert_to_official
from medsam_adapter.inference.predictor import MSAPredictor
from medsam_adapter.modeling_msa import MSAModel

WINDOWS, GRID, LAYERS, WIDTH = [5, 0, 5], 8, 3, 32


@pytest.fixture(scope="module")
def sam_state(tiny_sam):
    return official_code.sam_part(tiny_sam())


@pytest.fixture
def adapters():
    return official_code.adapters(WIDTH, LAYERS)


@pytest.fixture
def convert(tiny_base, tmp_path):
    """convert(state or content, **choices) -> (folder, notes)."""

    def make(content, name="best_checkpoint.pth", folder="msa", **choices):
        torch.save(content, tmp_path / name)
        choices = OfficialChoices(**{"base": str(tiny_base), **choices})
        notes = convert_official(read_checkpoint(tmp_path / name), tmp_path / folder, choices)
        return tmp_path / folder, notes

    return make


def config_in(folder) -> dict:
    return json.loads((folder / "adapter_config.json").read_text())


# -- what is written ---------------------------------------------------------------------------------------------------


def test_a_zoo_file_becomes_a_repo_with_a_card(convert, adapters, tiny_base):
    folder, notes = convert(adapters)
    assert sorted(p.name for p in folder.iterdir()) == [
        "README.md", "adapter_config.json", "adapter_model.safetensors", "config.json", "preprocessor_config.json",
    ]  # fmt: skip
    config = config_in(folder)
    want = {
        "bottleneck_ratio": 0.25, "mlp_scale": 0.5, "activation": "gelu", "use_decoder": False, "use_depth": True,
        "num_slices": 96, "train_mask_decoder": False, "compatibility": "official", "relative_positions": "all",
        "swap_clicks": False, "base_model_name_or_path": str(tiny_base),
    }  # fmt: skip
    assert {name: config[name] for name in want} == want
    tensors = load_file(folder / "adapter_model.safetensors")
    assert len(tensors) == len(adapters) == LAYERS * 3 * 4
    ours = {"MLP": "mlp", "Space": "space", "Depth": "depth"}
    for i in range(LAYERS):
        for kind in official_code.KINDS:
            for projection, name in (("1", "down"), ("2", "up")):
                for part in ("weight", "bias"):
                    at = f"base_model.model.vision_encoder.layers.{i}.msa_adapter_{ours[kind]}.{name}.{part}"
                    assert torch.equal(tensors[at], adapters[adapter_key(i, kind, projection, part)]), at
    card = ModelCard((folder / "README.md").read_text())
    assert "msa-adapter" in card.data.tags
    for words in (
        "best_checkpoint.pth",
        "3-D",
        "SAM's own answers",
        "Decoder adapters",
        "not a medical device",
        *notes,
    ):
        assert words in card.text, words


def test_a_full_dictionary_keeps_its_decoder(convert, sam_state, adapters):
    state = official_code.trained_decoder(sam_state) | adapters
    folder, notes = convert(official_code.training_dictionary(state, prefix="module."), slices=16)
    config = config_in(folder)
    assert config["train_mask_decoder"] and config["modules_to_save"] == ["mask_decoder"]
    assert config["swap_clicks"] and config["num_slices"] == 16
    assert any("trained along and is part" in note for note in notes)
    tensors = load_file(folder / "adapter_model.safetensors")
    key = "base_model.model.mask_decoder.iou_token.weight"
    assert torch.equal(tensors[key], state["mask_decoder.iou_token.weight"])
    assert not any("vision_encoder" in name and "msa_adapter" not in name for name in tensors)


@pytest.mark.parametrize("adapters_only", [False, True])
def test_a_decoder_that_is_the_bases_or_not_wanted_is_left_out(convert, sam_state, adapters, adapters_only):
    state = (official_code.trained_decoder(sam_state) if adapters_only else sam_state) | adapters
    folder, notes = convert(state, adapters_only=adapters_only)
    assert not config_in(folder)["train_mask_decoder"] and not config_in(folder)["swap_clicks"]
    assert len(load_file(folder / "adapter_model.safetensors")) == LAYERS * 12
    assert any(("left out" if adapters_only else "is the base's own") in note for note in notes)


def test_what_the_user_says_is_taken(convert, sam_state, adapters):
    folder, notes = convert(
        official_code.trained_decoder(sam_state) | adapters,
        clicks="xy", pixels="sam", image_size=128, dims="3d", slices=4,
    )  # fmt: skip
    assert not config_in(folder)["swap_clicks"]
    predictor = MSAPredictor.from_pretrained(folder)
    assert predictor.model.config.vision_config.image_size == predictor.processor.image_size == 128
    assert predictor.model.config.num_slices == 4
    assert predictor.processor.image_mean == [123.675, 116.28, 103.53]
    plain, _ = convert(adapters, folder="plain", positions="windowed")
    assert MSAPredictor.from_pretrained(plain).processor.image_mean == [0, 0, 0]
    assert config_in(plain)["relative_positions"] == "windowed"
    assert any("128 px" in note for note in notes) and any("4 slices" in note for note in notes)


@pytest.mark.parametrize("narrow", [1, 5, 32, 40])
def test_any_width_of_the_bottleneck(convert, narrow):
    folder, _ = convert(official_code.adapters(WIDTH, LAYERS, narrow=narrow), dims="2d")
    model = MSAModel.from_pretrained(folder)
    assert model.vision_encoder.layers[0].msa_adapter_space["default"].down.out_features == narrow


# -- what is found out -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("trained", ["2d", "3d"])
def test_images_or_volumes_shows_in_weights(convert, trained):
    """Depth adapters that images never trained still lie where PyTorch starts them."""
    folder, notes = convert(official_code.adapters(WIDTH, LAYERS, trained=trained))
    assert config_in(folder)["use_depth"] == (trained == "3d")
    kept = [name for name in load_file(folder / "adapter_model.safetensors") if "depth" in name]
    assert len(kept) == (12 if trained == "3d" else 0)
    assert notes[0].startswith("3-D" if trained == "3d" else "2-D")


@pytest.mark.parametrize(("steps", "dims"), [(("Space_", "MLP_"), "2d"), (("Space_", "MLP_", "Depth_"), "3d")])
def test_images_or_volumes_shows_in_the_optimizer(sam_state, tmp_path, steps, dims):
    """It counts more than the weights, which say the opposite here."""
    other = official_code.adapters(WIDTH, LAYERS, trained="3d" if dims == "2d" else "2d")
    state = official_code.sam_part_in_order(sam_state, other)
    content = official_code.training_dictionary(state, steps)
    torch.save(content, tmp_path / "x.pth")
    assert read_adapters(read_checkpoint(tmp_path / "x.pth")).dims == dims


def test_images_or_volumes_that_do_not_show(adapters, tmp_path):
    fresh = {name: value.clamp(-0.1, 0.1) for name, value in adapters.items()}
    half = {name: value.bfloat16() for name, value in adapters.items()}
    for state in (fresh, half):
        with pytest.raises(CheckpointError, match="images or on volumes") as error:
            read_adapters(Checkpoint(tmp_path / "x.pth", state))
        assert "--dims" in error.value.hint
        assert read_adapters(Checkpoint(tmp_path / "x.pth", state), "2d").dims == "2d"
    without = {name: value for name, value in adapters.items() if "Depth" not in name}
    assert read_adapters(Checkpoint(tmp_path / "x.pth", without)).dims == "2d"
    with pytest.raises(CheckpointError, match="no depth adapters"):
        read_adapters(Checkpoint(tmp_path / "x.pth", without), "3d")


@pytest.mark.parametrize("lost", ["all", "windowed", "none"])
def test_lost_positions_show_in_full_dictionaries(convert, sam_state, adapters, lost):
    state = sam_state | adapters
    state = state if lost == "all" else official_code.without_positions(state, lost, WINDOWS, 12)
    folder, notes = convert(state)
    assert config_in(folder)["relative_positions"] == lost
    assert any("without SAM's relative positions" in note for note in notes) == (lost != "all")
    with pytest.raises(CheckpointError, match="contradicts the file"):
        convert(state, folder="other", positions="none" if lost != "none" else "all")
    assert convert(state, folder="same", positions=lost)[1]


def test_positions_lost_in_an_unknown_way(convert, sam_state, adapters):
    state = sam_state | adapters
    for axis in "hw":
        state[f"image_encoder.blocks.0.attn.rel_pos_{axis}"] = torch.zeros(9, 16)
    with pytest.raises(CheckpointError, match="not known"):
        convert(state)


# -- what is refused ---------------------------------------------------------------------------------------------------


def spoil(name: str, value=None):
    def change(state):
        if value is None:
            del state[name]
        else:
            state[name] = value

    return change


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (spoil(adapter_key(1, "Space", "2", "bias")), "adapters are not whole"),
        (spoil(adapter_key(2, "Depth", "1", "weight")), "adapters are not whole"),
        (spoil(adapter_key(0, "Space", "1", "weight")), "adapters are not whole"),
        (spoil(adapter_key(1, "MLP", "1", "weight"), torch.zeros(4, 32)), "of several sizes"),
        (spoil("image_encoder.neck.0.weight"), "only a part of a SAM"),
        (spoil("mask_decoder.iou_token.weight"), "only a part of a SAM"),
        (spoil("prompt_encoder.no_mask_embed.weight"), "only a part of a SAM"),
        (spoil("image_encoder.blocks.0.attn.lora.weight", torch.zeros(1)), "1 unknown"),
        (spoil("discriminator.weight", torch.zeros(1)), "1 unknown"),
        (spoil("image_encoder.blocks.0.mlp.lin1.bias", torch.ones(128)), "another SAM"),
        (spoil("prompt_encoder.point_embeddings.1.weight", torch.ones(1, 32)), "another SAM"),
        (spoil("image_encoder.blocks.1.attn.rel_pos_w", torch.ones(15, 16)), "another SAM"),
        (spoil("image_encoder.pos_embed", torch.zeros(1, 4, 4, 32)), "another SAM"),
        (spoil("mask_decoder.mask_tokens.weight", torch.zeros(6, 32)), "another form than SAM's"),
        (spoil("mask_decoder.iou_token.weight", torch.zeros(1, 31)), "another form than SAM's"),
    ],
)
def test_checkpoints_that_do_not_fit(convert, sam_state, adapters, tmp_path, change, text):
    state = sam_state | adapters
    change(state)
    with pytest.raises(CheckpointError, match=text) as error:
        convert(state)
    assert error.value.file == tmp_path / "best_checkpoint.pth" and error.value.hint and error.value.found
    assert [p.name for p in tmp_path.iterdir()] == ["best_checkpoint.pth"]


def test_more_classes_than_sam_has_tokens(convert, sam_state, adapters):
    """Their decoder fits no SAM; the encoder's adapters alone do."""
    state = sam_state | adapters
    state["mask_decoder.mask_tokens.weight"] = torch.zeros(6, 32)
    state["mask_decoder.iou_prediction_head.layers.2.weight"] = torch.zeros(6, 32)
    state["mask_decoder.iou_prediction_head.layers.2.bias"] = torch.zeros(6)
    for i in (4, 5):
        for j in range(3):
            for part in ("weight", "bias"):
                first = f"mask_decoder.output_hypernetworks_mlps.0.layers.{j}.{part}"
                state[first.replace("mlps.0", f"mlps.{i}")] = state[first]
    with pytest.raises(CheckpointError, match="6 masks at once") as error:
        convert(state)
    assert "--adapters-only" in error.value.hint
    folder, _ = convert(state, adapters_only=True)
    assert len(load_file(folder / "adapter_model.safetensors")) == LAYERS * 12


def test_bases_that_do_not_fit(convert, adapters, tmp_path):
    for state in (official_code.adapters(48, LAYERS), official_code.adapters(WIDTH, 2)):
        with pytest.raises(CheckpointError, match="do not fit the base"):
            convert(state)
    with pytest.raises(CheckpointError, match="do not fit the base"):
        convert(adapters, base="sam-tiny")
    with pytest.raises(CheckpointError, match="fit none of Meta's") as error:
        convert(adapters, base=None)
    assert "--base" in error.value.hint
    with pytest.raises(CheckpointError, match="cannot be opened"):
        convert(adapters, base=str(tmp_path / "nothing"))
    folder, _ = convert(adapters)
    with pytest.raises(CheckpointError, match="has adapters already"):
        convert(adapters, base=str(folder), folder="other")


def test_a_base_is_found_by_width(convert):
    with pytest.raises(CheckpointError) as error:  # no network in tests
        convert(official_code.adapters(1024, 1, narrow=2), base=None)
    assert error.value.file == "facebook/sam-vit-large"


# -- the way back ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("lost", ["all", "windowed", "none"])
@pytest.mark.parametrize("trained", ["2d", "3d"])
def test_there_and_back(convert, sam_state, tmp_path, lost, trained):
    state = official_code.trained_decoder(sam_state) | official_code.adapters(WIDTH, LAYERS, trained=trained)
    size = {"windowed": 96, "none": 96}.get(lost)
    state = state if lost == "all" else official_code.without_positions(state, lost, WINDOWS, 12)
    folder, _ = convert(official_code.training_dictionary(state), image_size=size)
    notes = convert_to_official(str(folder), tmp_path / "back.pth")
    back = torch.load(tmp_path / "back.pth", weights_only=True)
    assert back.keys() == {"epoch", "model", "state_dict", "optimizer", "best_tol", "path_helper"}
    assert back["state_dict"].keys() == state.keys()
    for name, value in back["state_dict"].items():
        if trained == "2d" and "Depth" in name:
            assert value.shape == state[name].shape and not value.any(), name
        else:
            assert torch.equal(value, state[name]), name
    assert any(("-thd True -chunk 96" if trained == "3d" else "-image_size") in note for note in notes)


def test_back_to_a_zoo_file(convert, sam_state, adapters, tmp_path):
    folder, _ = convert(official_code.trained_decoder(sam_state) | adapters)
    notes = convert_to_official(str(folder), tmp_path / "zoo.pth", adapters_only=True)
    back = torch.load(tmp_path / "zoo.pth", weights_only=True)
    assert back.keys() == adapters.keys() and all(torch.equal(back[name], adapters[name]) for name in back)
    assert any("mask decoder" in note for note in notes)


OFFICIAL = dict(compatibility="official", activation="gelu", bottleneck_ratio=0.25)


def test_weights_without_a_place_are_listed_and_left_out_only_if_said(tiny_base, randomise, tmp_path):
    model = randomise(MSAModel.from_base(tiny_base, MSAAdapterConfig(**OFFICIAL)))
    model.save_pretrained(tmp_path / "run")
    with pytest.raises(CheckpointError, match="no place") as error:
        convert_to_official(str(tmp_path / "run"), tmp_path / "x.pth")
    assert "mask_decoder.transformer.layers.0.msa_adapter_token" in error.value.found
    assert "--drop-unknown" in error.value.hint and not (tmp_path / "x.pth").exists()
    notes = convert_to_official(str(tmp_path / "run"), tmp_path / "x.pth", drop_unknown=True)
    assert any("msa_adapter_token" in note for note in notes)
    state = torch.load(tmp_path / "x.pth", weights_only=True)["state_dict"]
    own = model.vision_encoder.layers[1].msa_adapter_mlp["default"].up.weight
    assert torch.equal(state[adapter_key(1, "MLP", "2", "weight")], own)


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"compatibility": None}, "another encoder block"),
        ({"activation": "relu"}, "activation relu"),
        ({"bottleneck_ratio": 1 / 16}, "bottleneck_ratio 0.0625"),
        ({"mlp_scale": 1.0}, "mlp_scale 1"),
        ({"encoder_layers": [0]}, "some encoder blocks"),
    ],
)
def test_adapters_that_the_public_code_cannot_compute(tiny_base, tmp_path, changes, text):
    config = MSAAdapterConfig(**{**OFFICIAL, "use_decoder": False, **changes})
    MSAModel.from_base(tiny_base, config).save_pretrained(tmp_path / "run")
    with pytest.raises(CheckpointError, match="cannot compute") as error:
        convert_to_official(str(tmp_path / "run"), tmp_path / "x.pth", drop_unknown=True)
    assert text in error.value.found and not (tmp_path / "x.pth").exists()


def test_the_way_back_starts_from_an_adapter(tiny_base, tmp_path):
    for run_folder in (tiny_base, tmp_path / "nothing"):
        with pytest.raises(CheckpointError, match="is no adapter"):
            convert_to_official(str(run_folder), tmp_path / "x.pth")
    (tmp_path / "used.pth").write_text("mine")
    with pytest.raises(CheckpointError, match="in use"):
        convert_to_official(str(tiny_base), tmp_path / "used.pth")
    assert (tmp_path / "used.pth").read_text() == "mine"


def test_what_breaks_off_leaves_nothing(convert, adapters, tmp_path, monkeypatch):
    """A full disk in the middle of writing, there and back."""
    folder, _ = convert(adapters)

    def full(*_, **__):
        raise OSError(28, "No space left on device", "x")

    before = sorted(tmp_path.rglob("*"))
    monkeypatch.setattr("medsam_adapter.hub.convert.official_msa.write_official_card", full)
    monkeypatch.setattr(torch, "save", lambda content, at: (open(at, "w").write("half"), full()))
    with pytest.raises(OSError, match="No space"):
        convert_official(Checkpoint(tmp_path / "x.pth", adapters), tmp_path / "b", OfficialChoices(str(_base(folder))))
    with pytest.raises(OSError, match="No space"):
        convert_to_official(str(folder), tmp_path / "back.pth")
    assert sorted(tmp_path.rglob("*")) == before


def _base(folder):
    return config_in(folder)["base_model_name_or_path"]


# -- the command -------------------------------------------------------------------------------------------------------


def test_the_command_there_and_back(sam_state, adapters, tiny_base, tmp_path, capsys):
    state = official_code.trained_decoder(sam_state) | adapters
    torch.save(official_code.training_dictionary(state), tmp_path / "best.pth")
    out = str(tmp_path / "msa")
    assert run(["convert", str(tmp_path / "best.pth"), "-o", out, "--base", str(tiny_base), "--name", "Kidneys"]) == 0
    said = capsys.readouterr().out
    assert "an MSA adapter" in said and "3-D: its depth adapters were trained." in said and "next: msa predict" in said
    assert (tmp_path / "msa" / "README.md").read_text().count("# Kidneys") == 1
    assert run(["convert", out, "-o", str(tmp_path / "back.pth"), "--to", "official", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["output"].endswith("back.pth")
    assert torch.load(tmp_path / "back.pth", weights_only=True)["state_dict"].keys() == state.keys()
    # The SAM inside, for those whose base is nowhere else; then it is the base.
    sam = ["convert", str(tmp_path / "best.pth"), "--kind", "sam", "-o", str(tmp_path / "sam")]
    assert run(sam) == 0 and "SAM of width 32" in capsys.readouterr().out
    again = ["convert", str(tmp_path / "best.pth"), "-o", str(tmp_path / "again"), "--base", str(tmp_path / "sam")]
    assert run([*again, "--json"]) == 0
    assert any("is the base's own" in note for note in json.loads(capsys.readouterr().out)["notes"])


def test_wrong_use_of_the_command(sam_state, adapters, tmp_path, capsys):
    torch.save(sam_state, tmp_path / "sam.pth")
    torch.save(adapters, tmp_path / "zoo.pth")
    sam, zoo, out = str(tmp_path / "sam.pth"), str(tmp_path / "zoo.pth"), ["-o", str(tmp_path / "out")]
    for arguments, text in (
        ([sam, *out, "--kind", "onnx"], "--kind is one of"),
        ([sam, *out, "--to", "onnx"], "--to is one of"),
        ([zoo, *out, "--dims", "4d"], "--dims is one of"),
        ([sam, *out, "--base", "sam-tiny"], "--base has no place here"),
        ([sam, *out, "--adapters-only"], "--adapters-only has no place here"),
        ([sam, *out, "--drop-unknown"], "--drop-unknown has no place here"),
        ([sam, *out, "--to", "official", "--slices", "3"], "--slices has no place here"),
        ([sam, *out, "--kind", "official"], "has no adapters of the public"),
        ([sam, "-o", sam], "in use"),
        ([str(tmp_path / "no.pth"), *out], "is not there"),
        ([sam], "output"),
    ):
        assert run(["convert", *arguments]) == 2, arguments
        assert text in capsys.readouterr().err.replace("\n", " "), arguments
        assert not (tmp_path / "out").exists()


def test_help_stays_light():
    import subprocess
    import sys

    code = (
        "import sys; from medsam_adapter.cli.main import run; run(['convert', '--help']); print('torch' in sys.modules)"
    )
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert "--drop-unknown" in said and said.strip().endswith("False")
