"""Meta's `sam_vit_{b,l,h}_*.pth` and MedSAM's `medsam_vit_b.pth` -> a folder that `SamModel.from_pretrained` opens.

The sizes are read from the tensors' shapes. Then the two lists of names must be the same, and each shape.
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor
from transformers import (
    SamConfig,
    SamMaskDecoderConfig,
    SamModel,
    SamPromptEncoderConfig,
    SamVisionConfig,
)
from transformers.models.sam.image_processing_pil_sam import SamImageProcessorPil

from medsam_adapter.errors import CheckpointError
from medsam_adapter.hub.convert.checkpoint_file import ADAPTER_KEY, Checkpoint
from medsam_adapter.hub.convert.names import meta_name, one_name
from medsam_adapter.hub.convert.whole_folder import whole_folder

VARIANTS = {768: "ViT-B", 1024: "ViT-L", 1280: "ViT-H"}
PLAIN_MEAN, PLAIN_STD = [0.0, 0.0, 0.0], [1.0, 1.0, 1.0]
"""MedSAM gives its encoder values in [0, 1] as they are (MedSAM_Inference.py), SAM normalises them."""


def convert_sam(checkpoint: Checkpoint, folder: Path, kind: str = "sam") -> SamConfig:
    """Write config.json, model.safetensors and preprocessor_config.json, or nothing.

    Args:
        kind: "sam", or "medsam", which differs in its preprocessor only. The SAM inside a full checkpoint of the public
            MSA code is taken too; its adapters are left out.

    Raises:
        CheckpointError: tensors that are missing, left over or of another shape.
    """
    state = {name: value for name, value in checkpoint.state.items() if not ADAPTER_KEY.fullmatch(name)}
    state = {one_name(name): value for name, value in state.items()}
    config = config_of(state, checkpoint.file)
    with torch.device("meta"):
        model = SamModel(config)
    model.load_state_dict(sam_state(model, state, checkpoint.file), assign=True)
    model.tie_weights()
    with whole_folder(folder) as unfinished:
        model.save_pretrained(unfinished)
        _processor(kind, config.vision_config.image_size).save_pretrained(unfinished)
    return config


def _processor(kind: str, size: int) -> SamImageProcessorPil:
    plain = {"image_mean": PLAIN_MEAN, "image_std": PLAIN_STD} if kind == "medsam" else {}
    return SamImageProcessorPil(
        size={"longest_edge": size}, pad_size={"height": size, "width": size},
        mask_size={"longest_edge": size // 4}, mask_pad_size={"height": size // 4, "width": size // 4}, **plain,
    )  # fmt: skip


def sam_state(model: SamModel, state: dict[str, Tensor], file: Path) -> dict[str, Tensor]:
    """A state under Meta's names as `model.load_state_dict` takes it; every tensor finds its place.

    Raises:
        CheckpointError: tensors that are missing, left over or of another shape.
    """
    places = model.state_dict()
    names = {name: meta_name(name) for name in places}
    missing = sorted(set(names.values()) - set(state))
    extra = sorted(set(state) - set(names.values()))
    wrong = [
        f"{meta}: {tuple(state[meta].shape)} for {tuple(places[name].shape)}"
        for name, meta in names.items()
        if meta in state and state[meta].shape != places[name].shape
    ]
    if missing or extra or wrong:
        raise CheckpointError(
            "is not a whole SAM, or more than one",
            file=file,
            expected=f"the {len(set(names.values()))} tensors of a SAM of this size",
            found=f"{len(missing)} missing, {len(extra)} unknown, {len(wrong)} of another shape"
            + "".join(f"; e.g. {group[0]}" for group in (missing, extra, wrong) if group),
            hint="see docs/convert.md for what can be converted",
        )
    return {name: state[meta] for name, meta in names.items()}


def config_of(state: dict[str, Tensor], file: Path) -> SamConfig:
    """The configuration of a SAM, from the shapes of its tensors.

    Raises:
        CheckpointError: if a tensor is missing whose shape is needed.
    """

    def shape(name: str) -> tuple[int, ...]:
        if name not in state:
            raise CheckpointError(
                "is not a whole SAM", file=file, expected=name, found=f"{len(state)} tensors without it",
                hint="see docs/convert.md for what can be converted",
            )  # fmt: skip
        return tuple(state[name].shape)

    width, _, patch, _ = _axes(shape("image_encoder.patch_embed.proj.weight"), 4, file)
    _, grid, _, _ = _axes(shape("image_encoder.pos_embed"), 4, file)
    blocks = {int(name.split(".")[2]) for name in state if name.startswith("image_encoder.blocks.")}
    tables = [_axes(shape(f"image_encoder.blocks.{i}.attn.rel_pos_h"), 2, file) for i in range(len(blocks))]
    windows = [0 if rows == 2 * grid - 1 else (rows + 1) // 2 for rows, _ in tables]
    prompt_width = shape("mask_decoder.iou_token.weight")[1]
    narrow = shape("mask_decoder.transformer.layers.0.cross_attn_token_to_image.q_proj.weight")[0]
    if not blocks or len({side for side in windows if side}) > 1:
        raise CheckpointError(
            "is no SAM of a known form", file=file, expected="blocks with windows of one size",
            found=f"{len(blocks)} blocks with windows of {sorted(set(windows))} tokens",
            hint="see docs/convert.md for what can be converted",
        )  # fmt: skip
    vision = SamVisionConfig(
        hidden_size=width,
        output_channels=shape("image_encoder.neck.0.weight")[0],
        num_hidden_layers=len(blocks),
        num_attention_heads=width // tables[0][1],
        image_size=grid * patch,
        patch_size=patch,
        mlp_ratio=shape("image_encoder.blocks.0.mlp.lin1.weight")[0] / width,
        mlp_dim=shape("image_encoder.blocks.0.mlp.lin1.weight")[0],
        window_size=next((side for side in windows if side), grid),
        global_attn_indexes=[i for i, side in enumerate(windows) if not side],
        num_pos_feats=shape("prompt_encoder.pe_layer.positional_encoding_gaussian_matrix")[1],
    )
    prompt = SamPromptEncoderConfig(
        hidden_size=prompt_width,
        image_size=grid * patch,
        patch_size=patch,
        mask_input_channels=shape("prompt_encoder.mask_downscaling.3.weight")[0],
    )
    layers = {name.split(".")[3] for name in state if name.startswith("mask_decoder.transformer.layers.")}
    decoder = SamMaskDecoderConfig(
        hidden_size=prompt_width,
        mlp_dim=shape("mask_decoder.transformer.layers.0.mlp.lin1.weight")[0],
        num_hidden_layers=len(layers),
        attention_downsample_rate=prompt_width // narrow,
        num_multimask_outputs=shape("mask_decoder.mask_tokens.weight")[0] - 1,
        iou_head_hidden_dim=shape("mask_decoder.iou_prediction_head.layers.0.weight")[0],
    )
    return SamConfig(vision_config=vision, prompt_encoder_config=prompt, mask_decoder_config=decoder)


def _axes(shape: tuple[int, ...], number: int, file: Path) -> tuple[int, ...]:
    if len(shape) != number:
        raise CheckpointError(
            "is no SAM of a known form", file=file, expected=f"a tensor of {number} axes",
            found=str(shape), hint="see docs/convert.md for what can be converted",
        )  # fmt: skip
    return shape
