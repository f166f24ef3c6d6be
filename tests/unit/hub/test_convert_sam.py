"""Meta's and MedSAM's checkpoints to a folder: names, sizes, values, and what is refused."""

from __future__ import annotations

import os
import zipfile

import numpy as np
import pytest
import torch
from transformers import AutoProcessor, SamConfig, SamModel

import official_code
from medsam_adapter.errors import CheckpointError
from medsam_adapter.hub.convert.checkpoint_file import Checkpoint, kind_of, read_checkpoint
from medsam_adapter.hub.convert.meta_sam import config_of, convert_sam
from medsam_adapter.hub.convert.names import meta_name
from medsam_adapter.inference.predictor import MSAPredictor
from medsam_adapter.modeling_msa import MSAModel


def both(*names: str) -> list[str]:
    return [f"{name}.{part}" for name in names for part in ("weight", "bias")]


def names_of_meta(blocks: int) -> set[str]:
    """The names in sam_vit_b_01ec64.pth, sam_vit_l_0b3195.pth and sam_vit_h_4b8939.pth, from the modules of
    https://github.com/facebookresearch/segment-anything (segment_anything/modeling/*.py)."""
    encoder = ["pos_embed", *both("patch_embed.proj", "neck.1", "neck.3"), "neck.0.weight", "neck.2.weight"]
    block = [
        "attn.rel_pos_h",
        "attn.rel_pos_w",
        *both("norm1", "norm2", "attn.qkv", "attn.proj", "mlp.lin1", "mlp.lin2"),
    ]
    encoder += [f"blocks.{i}.{name}" for i in range(blocks) for name in block]
    prompts = ["pe_layer.positional_encoding_gaussian_matrix", "not_a_point_embed.weight", "no_mask_embed.weight"]
    prompts += [f"point_embeddings.{i}.weight" for i in range(4)]
    prompts += both(*(f"mask_downscaling.{i}" for i in (0, 1, 3, 4, 6)))
    attention = both("q_proj", "k_proj", "v_proj", "out_proj")
    attentions = ("self_attn", "cross_attn_token_to_image", "cross_attn_image_to_token")
    layer = [f"{a}.{name}" for a in attentions for name in attention]
    layer += both("norm1", "norm2", "norm3", "norm4", "mlp.lin1", "mlp.lin2")
    decoder = ["iou_token.weight", "mask_tokens.weight", *both("transformer.norm_final_attn")]
    decoder += [f"transformer.layers.{i}.{name}" for i in range(2) for name in layer]
    decoder += [f"transformer.final_attn_token_to_image.{name}" for name in attention]
    decoder += both(*(f"output_upscaling.{i}" for i in (0, 1, 3)))
    decoder += both(*(f"output_hypernetworks_mlps.{i}.layers.{j}" for i in range(4) for j in range(3)))
    decoder += both(*(f"iou_prediction_head.layers.{j}" for j in range(3)))
    parts = {"image_encoder": encoder, "prompt_encoder": prompts, "mask_decoder": decoder}
    return {f"{part}.{name}" for part, names in parts.items() for name in names}


VARIANTS = {  # build_sam.py
    "vit_b": dict(hidden_size=768, num_hidden_layers=12, num_attention_heads=12, global_attn_indexes=[2, 5, 8, 11]),
    "vit_l": dict(hidden_size=1024, num_hidden_layers=24, num_attention_heads=16, global_attn_indexes=[5, 11, 17, 23]),
    "vit_h": dict(hidden_size=1280, num_hidden_layers=32, num_attention_heads=16, global_attn_indexes=[7, 15, 23, 31]),
}


def empty_sam(sizes: dict) -> SamModel:
    config = SamConfig(vision_config={**sizes, "mlp_dim": 4 * sizes["hidden_size"]})
    with torch.device("meta"):
        return SamModel(config)


@pytest.mark.parametrize("variant", VARIANTS)
def test_every_name_of_meta_has_its_place(variant):
    sizes = VARIANTS[variant]
    names = [meta_name(name) for name in empty_sam(sizes).state_dict()]
    assert set(names) == names_of_meta(sizes["num_hidden_layers"])
    assert len(names) == len(set(names)) + 1  # transformers names the position matrix twice


@pytest.mark.parametrize("variant", VARIANTS)
def test_sizes_are_read_from_shapes(variant, tmp_path):
    model = empty_sam(VARIANTS[variant])
    read = config_of(official_code.sam_part(model), tmp_path)
    want = model.config.to_dict()
    got = read.to_dict()
    for part in ("vision_config", "prompt_encoder_config", "mask_decoder_config"):
        assert got[part] == want[part], part


@pytest.fixture
def meta_file(tiny_sam, tmp_path):
    """meta_file(name, **sizes) -> a file in Meta's layout, and the SamModel it was made of."""

    def make(name: str = "sam_vit_x.pth", **sizes):
        sam = tiny_sam(**sizes)
        torch.save(official_code.sam_part(sam), tmp_path / name)
        return tmp_path / name, sam

    return make


@pytest.mark.parametrize("sizes", [{}, {"num_layers": 2, "num_heads": 4}, {"window_size": 8}], ids=str)
def test_a_converted_file_is_the_model(meta_file, tmp_path, inputs_for, sizes):
    file, sam = meta_file(**sizes)
    convert_sam(read_checkpoint(file), tmp_path / "sam")
    again, info = SamModel.from_pretrained(tmp_path / "sam", output_loading_info=True)
    assert not info["missing_keys"] and not info["unexpected_keys"] and not info["mismatched_keys"]
    for name, value in sam.state_dict().items():
        assert torch.equal(again.state_dict()[name], value), name
    inputs = inputs_for()
    with torch.no_grad():
        for one, other in zip(again.eval()(**inputs)[:2], sam(**inputs)[:2], strict=True):
            torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-6)
    assert sorted(p.name for p in (tmp_path / "sam").iterdir()) == [
        "config.json", "model.safetensors", "preprocessor_config.json",
    ]  # fmt: skip
    assert MSAModel.from_base(str(tmp_path / "sam")).config.vision_config.image_size == 64


def test_the_preprocessor_is_that_of_the_weights(meta_file, tmp_path):
    """SAM normalises, MedSAM gives [0, 1] as it is."""
    white = np.full((30, 40, 3), 255, np.uint8)
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    for name, want in (("sam_vit_b.pth", (1 - mean) / std), ("medsam_vit_b.pth", torch.ones(3))):
        file, _ = meta_file(name)
        checkpoint = read_checkpoint(file)
        convert_sam(checkpoint, tmp_path / name[:-4], kind_of(checkpoint))
        ours = MSAPredictor.from_pretrained(tmp_path / name[:-4]).processor
        for processor in (ours, AutoProcessor.from_pretrained(tmp_path / name[:-4])):
            pixels = processor(white, return_tensors="pt")["pixel_values"]
            assert pixels.shape == (1, 3, 64, 64)
            torch.testing.assert_close(pixels[0, :, 0, 0], want, rtol=1e-4, atol=1e-4)


def test_prefixes_of_data_parallel_and_wrappers_are_seen_through(meta_file, tmp_path):
    file, _ = meta_file()
    state = torch.load(file)
    for content in (
        {f"module.{name}": value for name, value in state.items()},
        {"model": state, "epoch": 3},  # MedSAM's training saves it so
        {"state_dict": {f"module.module.{name}": value for name, value in state.items()}},
    ):
        torch.save(content, file)
        checkpoint = read_checkpoint(file)
        assert checkpoint.state.keys() == state.keys() and kind_of(checkpoint) == "sam"
    torch.save(state, file, _use_new_zipfile_serialization=False)  # the older format, which cannot be mapped
    assert read_checkpoint(file).state.keys() == state.keys()


# -- what is refused ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (lambda s: s.pop("mask_decoder.mask_tokens.weight"), "mask_decoder.mask_tokens.weight"),
        (lambda s: s.pop("image_encoder.neck.2.weight"), "1 missing, 0 unknown"),
        (lambda s: s.pop("image_encoder.blocks.1.attn.rel_pos_h"), "rel_pos_h"),
        (lambda s: s.update({"image_encoder.extra": torch.zeros(2)}), "0 missing, 1 unknown"),
        (lambda s: s.update({"image_encoder.neck.1.bias": torch.zeros(3)}), "1 of another shape"),
        (lambda s: s.update({"image_encoder.pos_embed": torch.zeros(8, 8, 32)}), "4 axes"),
        (lambda s: s.update({"image_encoder.neck.1.bias": torch.full((32,), torch.nan)}), "NaN"),
    ],
)
def test_a_sam_that_is_not_whole(meta_file, tmp_path, change, text):
    file, _ = meta_file()
    state = torch.load(file)
    change(state)
    torch.save(state, file)
    with pytest.raises(CheckpointError, match=text) as error:
        convert_sam(read_checkpoint(file), tmp_path / "sam")
    assert error.value.file == file and error.value.hint
    assert sorted(p.name for p in tmp_path.iterdir()) == [file.name]  # nothing half written


class Bomb:
    """What a pickle can do to its reader."""

    def __init__(self, target):
        self.target = target

    def __reduce__(self):
        return os.system, (f"touch {self.target}",)


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "older format"])
def test_a_pickle_that_runs_code_is_refused_and_not_run(tmp_path, zipped):
    file, target = tmp_path / "bomb.pth", tmp_path / "touched"
    torch.save({"state_dict": {"a": torch.zeros(1)}, "b": Bomb(target)}, file, _use_new_zipfile_serialization=zipped)
    with pytest.raises(CheckpointError, match="would run code") as error:
        read_checkpoint(file)
    assert "system" in error.value.found and "nothing was run" in error.value.hint
    assert not target.exists()
    torch.load(file, weights_only=False)  # it would have
    assert target.exists()


def test_files_that_cannot_be_read(meta_file, tmp_path):
    file, _ = meta_file()
    whole = file.read_bytes()
    for content in (
        whole[: len(whole) // 2],
        whole[:1],
        b"",
        b"PK\x03\x04 not a zip",
        b"<!DOCTYPE html><p>404",
        b"\x80\x02]",
    ):
        file.write_bytes(content)
        with pytest.raises(CheckpointError, match="cannot be read|holds more than") as error:
            read_checkpoint(file)
        assert error.value.file == file and error.value.hint
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("a.txt", "not a checkpoint")
    with pytest.raises(CheckpointError, match="cannot be read"):
        read_checkpoint(file)
    with pytest.raises(CheckpointError, match="is not there"):
        read_checkpoint(tmp_path / "nothing.pth")
    with pytest.raises(CheckpointError, match="is a folder"):
        read_checkpoint(tmp_path)


@pytest.mark.parametrize(
    ("content", "text"),
    [
        ({"conv1.weight": 1, "layer1.0.conv1.weight": 1}, "2 tensors: conv1.weight, layer1.0.conv1.weight"),
        ({"base_model.model.q.lora_A.weight": 1}, "a LoRA"),
        ({"image_encoder.blocks.0.attn.qkv.lora_A": 1}, "a LoRA"),
        ({"image_encoder.blocks.0.Adapter.channel.0.weight": 1}, "another encoder or another project"),
        ({"image_encoder.layers.0.blocks.0.MLP_Adapter.D_fc1.weight": 1}, "another encoder or another project"),
        ({"image_encoder.trunk.pos_embed": 1}, "SAM 2"),
        ({"image_encoder.layers.0.c.weight": 1}, "MobileSAM"),
        ({"vision_encoder.pos_embed": 1}, "needs no conversion"),
    ],
)
def test_other_checkpoints_are_named(tmp_path, content, text):
    checkpoint = Checkpoint(tmp_path / "x.pth", {name: torch.zeros(1) for name in content})
    with pytest.raises(CheckpointError, match="cannot be converted") as error:
        kind_of(checkpoint)
    assert text in error.value.found


@pytest.mark.parametrize("content", [[1, 2], torch.zeros(3), {}, {"epoch": 3}, {1: torch.zeros(1)}, {"state_dict": {}}])
def test_files_without_weights_by_name(tmp_path, content):
    torch.save(content, tmp_path / "x.pth")
    with pytest.raises(CheckpointError, match="holds no weights by name"):
        read_checkpoint(tmp_path / "x.pth")


def test_a_folder_in_use_is_left_alone(meta_file, tmp_path):
    file, _ = meta_file()
    (tmp_path / "used").mkdir()
    (tmp_path / "used" / "mine").write_text("x")
    (tmp_path / "plain").write_text("x")
    for name in ("used", "plain"):
        with pytest.raises(CheckpointError, match="in use"):
            convert_sam(read_checkpoint(file), tmp_path / name)
    assert (tmp_path / "used" / "mine").read_text() == (tmp_path / "plain").read_text() == "x"
    (tmp_path / "empty").mkdir()
    convert_sam(read_checkpoint(file), tmp_path / "empty")
    assert (tmp_path / "empty" / "model.safetensors").exists()
