"""What self-supervised pre-training starts from, and what it leaves: a SAM, or an adapter-only MSA repo."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors.torch import save_file
from transformers import SamConfig

from medsam_adapter.adapters.config import MSAAdapterConfig
from medsam_adapter.errors import CheckpointError, MSAError, RecipeError
from medsam_adapter.modeling_msa import MSAModel
from medsam_adapter.pretraining.ssl_recipe import SslRecipe

TIED = "prompt_encoder.shared_embedding.positional_embedding"
"""The second name of `shared_image_embedding.positional_embedding`, which SAM's files do not hold."""


def open_start(recipe: SslRecipe) -> MSAModel:
    """The base in float32; the image encoder's weights are trainable, or those of fresh adapters in it are.

    The caller seeds torch.

    Raises:
        CheckpointError: a base that cannot be opened, or one that has adapters already.
        RecipeError: fields that no adapter has, or an adapter that leaves the encoder alone.
    """
    try:
        model = MSAModel.from_base(recipe.base, image_size=recipe.image_size, dtype=torch.float32)
    except MSAError:
        raise
    except (OSError, ValueError) as error:  # ValueError: a folder whose config is of no model
        raise CheckpointError(
            "base cannot be opened",
            file=recipe.base,
            expected="sam-tiny, a Hub id such as facebook/sam-vit-base, or a folder with a SAM",
            found=(str(error).strip().splitlines() or [type(error).__name__])[0],
        ) from error
    if model._hf_peft_config_loaded:
        raise CheckpointError(
            "base has adapters already", file=recipe.base, expected="a SAM without adapters",
            found=", ".join(model.peft_config), hint="give its own base; to go on with a run, use --resume",
        )  # fmt: skip
    if recipe.train == "encoder":
        model.vision_encoder.requires_grad_(True)
    else:
        model.add_msa_adapter(_adapter_config(recipe))
        for name, parameter in model.vision_encoder.named_parameters():
            if ".msa_adapter_depth" in name:  # single pictures say nothing about neighbouring slices
                parameter.requires_grad_(False)
        if not any(parameter.requires_grad for parameter in model.vision_encoder.parameters()):
            raise RecipeError(
                "the adapter leaves the image encoder alone, so there is nothing to train",
                expected="adapter.use_encoder: true", found=f"adapter: {recipe.adapter}",
            )  # fmt: skip
    if recipe.gradient_checkpointing:
        model.activation_checkpointing_enable()
    return model


def _adapter_config(recipe: SslRecipe) -> MSAAdapterConfig:
    try:
        return MSAAdapterConfig(**recipe.adapter)
    except (TypeError, ValueError) as error:
        raise RecipeError("adapter is not usable", expected="fields of MSAAdapterConfig", found=str(error)) from error


def save_result(model: MSAModel, folder: Path, recipe: SslRecipe) -> None:
    """Write what has been trained.

    train: encoder -> a `SamModel` folder, prompt encoder and mask decoder unchanged; train: adapters -> an adapter-only
    MSA repo whose decoder adapters are as at the start, zero.
    """
    if recipe.train == "adapters":
        model.save_pretrained(folder)
        return
    state = {k: v.detach().cpu().contiguous().clone() for k, v in model.state_dict().items() if k != TIED}
    temporary = folder / "model.safetensors.tmp"
    save_file(state, temporary, metadata={"format": "pt"})
    values = model.config.to_dict()
    for key in ("model_type", "num_slices", "adapter_configs", "transformers_version", "_name_or_path"):
        values.pop(key, None)
    SamConfig(**{**values, "architectures": ["SamModel"]}).save_pretrained(folder)
    temporary.replace(folder / "model.safetensors")
