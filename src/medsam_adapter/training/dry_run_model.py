"""The model of a recipe without its weights: on torch's meta device, where a tensor has a size and no memory.

Neither memory nor time depends on the values of weights, so a base need not be on disk, and the largest SAM is there in
a second.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import torch
from peft.utils import get_peft_model_state_dict
from torch import nn
from transformers import AutoConfig, SamConfig

from medsam_adapter.adapters.config import MSAAdapterConfig
from medsam_adapter.adapters.files import KEY_PREFIX, WEIGHTS_NAME
from medsam_adapter.backbones import EMBEDDED_TEXT_MODELS
from medsam_adapter.configuration_msa import MSAConfig
from medsam_adapter.errors import CheckpointError
from medsam_adapter.image_size import set_image_size
from medsam_adapter.modeling_msa import MSAModel
from medsam_adapter.prompts.text import load_text_encoder
from medsam_adapter.training.methods import Start, make_trainable, starting_point
from medsam_adapter.training.recipe import Recipe
from medsam_adapter.training.setup import prepare_for_training

SAM_SIZES = {
    "facebook/sam-vit-base": (768, 12, 12),
    "facebook/sam-vit-large": (1024, 24, 16),
    "facebook/sam-vit-huge": (1280, 32, 16),
}
"""Width, blocks and heads of Meta's three encoders, of which every fourth part ends with a block of global attention
(https://github.com/facebookresearch/segment-anything, build_sam.py); all else is as in `SamConfig`."""


@dataclass
class PlannedModel:
    """A model on the meta device, with what it starts from.

    Attributes:
        model: sizes, types and `requires_grad` are those of the run; in training mode.
        file_name: of the weights in the run folder, of `file_bytes`.
    """

    model: MSAModel
    start: Start
    file_name: str
    file_bytes: int


def plan_model(recipe: Recipe) -> PlannedModel:
    """The model that a recipe trains; no weight is read.

    Raises:
        CheckpointError: a base whose sizes are neither known nor to be read, or an adapter of another method.
        RecipeError: fields of `model.adapter` or `model.lora` that do not exist or do not fit.
    """
    start = starting_point(recipe, _text_width(recipe), recipe.model.base not in SAM_SIZES)
    with torch.device("meta"):
        model = MSAModel(MSAConfig.from_sam(_base_config(start)))
        model.tie_weights()
        if start.image_size:
            set_image_size(model, start.image_size)
        model.requires_grad_(False)
        make_trainable(model, start.config, recipe.model.method)
    name, size = _saved_file(model)  # before frozen weights are shortened: a file with all weights holds them in full
    prepare_for_training(model, recipe, "cpu")
    return PlannedModel(model.train(), start, name, size)


def _base_config(start: Start) -> SamConfig:
    if start.base in SAM_SIZES:
        width, blocks, heads = SAM_SIZES[start.base]
        last_of_each_quarter = list(range(blocks // 4 - 1, blocks, blocks // 4))
        return SamConfig(
            vision_config={
                "hidden_size": width, "num_hidden_layers": blocks, "num_attention_heads": heads,
                "global_attn_indexes": last_of_each_quarter,
            }
        )  # fmt: skip
    try:
        config = AutoConfig.from_pretrained(start.base, revision=start.revision)
    except (OSError, ValueError) as error:
        raise CheckpointError(
            "the sizes of model.base are unknown",
            file=start.base,
            expected=f"sam-tiny, {', '.join(SAM_SIZES)}, or a SAM on disk or on the Hub",
            found=(str(error).strip().splitlines() or [type(error).__name__])[0],
        ) from error
    if not isinstance(config, SamConfig):
        raise CheckpointError(
            "this is not a SAM", file=start.base, expected="a model of type sam or msa", found=config.model_type
        )
    return config


def _text_width(recipe: Recipe) -> int | None:
    """Width of the text model's embeddings; CLIP's usual one where the model would have to be downloaded."""
    if not recipe.uses_text:
        return None
    name = recipe.text.model
    is_here = name in EMBEDDED_TEXT_MODELS or Path(name).is_dir()
    return load_text_encoder(name).width if is_here else MSAAdapterConfig.text_width


def _saved_file(model: MSAModel) -> tuple[str, int]:
    """Name and bytes of the file of weights that the run will write: tensors, and the header that lists them."""
    if model._hf_peft_config_loaded:
        state = get_peft_model_state_dict(model, adapter_name="default", save_embedding_layers=False)
        state = {KEY_PREFIX + name: tensor for name, tensor in state.items()}
        file_name = WEIGHTS_NAME
    else:
        state, file_name = _without_ties(model), "model.safetensors"
    sizes = {name: tensor.numel() * tensor.element_size() for name, tensor in state.items()}
    header = {
        name: {"dtype": "F32", "shape": list(tensor.shape), "data_offsets": [0, sizes[name]]}
        for name, tensor in state.items()
    }
    return file_name, sum(sizes.values()) + len(json.dumps(header))


def _without_ties(model: nn.Module) -> dict[str, torch.Tensor]:
    tensors = [*model.named_parameters(), *model.named_buffers()]  # each tensor once
    return dict(tensors)


def count(model: nn.Module, only_trained: bool = False) -> int:
    """Parameters, all or those with a gradient."""
    return sum(p.numel() for p in model.parameters() if p.requires_grad or not only_trained)


def num_bytes(model: nn.Module, only_trained: bool = False) -> int:
    """Bytes of the parameters, all or those with a gradient."""
    return sum(p.numel() * p.element_size() for p in model.parameters() if p.requires_grad or not only_trained)
