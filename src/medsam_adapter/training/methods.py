"""What a run trains: MSA's adapters, PEFT's LoRA, the mask decoder alone, or image encoder and mask decoder.

`full` is what MedSAM does (https://arxiv.org/abs/2304.12306): the prompt encoder stays frozen, everything else is
trained. LoRA is PEFT's own, through its `LoraConfig`, and no code of ours. The last two are there to compare with. They
differ in what gets a gradient and in what is saved, in nothing else: objective, loop, checkpoints and validation are
the same.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path

from peft import LoraConfig
from transformers import AutoConfig
from transformers.utils import find_adapter_config_file

from medsam_adapter.adapters.config import MSAAdapterConfig
from medsam_adapter.adapters.files import AdapterConfig, plain_config, read_adapter_config
from medsam_adapter.backbones import resolve_base
from medsam_adapter.errors import CheckpointError, RecipeError, did_you_mean
from medsam_adapter.modeling_msa import MSAModel
from medsam_adapter.training.recipe import Recipe

WHOLE = ("decoder", "full")
"""Methods that train SAM's own weights, and so save all of them; the others save an adapter."""
FORM = (
    "bottleneck_ratio", "mlp_scale", "activation", "use_encoder", "use_decoder", "encoder_layers", "decoder_layers",
    "use_depth", "num_slices", "depth_bias", "prompt_fusion", "hyper_depth", "train_mask_decoder",
    "compatibility", "relative_positions", "swap_clicks",
)  # fmt: skip
"""Fields of an MSA adapter's configuration that its weights depend on, text prompts left out."""
LORA_TARGETS = ["qkv", "q_proj", "v_proj"]
"""LoRA's modules unless a recipe names others: the projections of the encoder's attention (its queries, keys and values
are one layer) and those of queries and values in the decoder's."""
_NOT_OF_THE_FORM = (
    "task_type", "peft_type", "auto_mapping", "peft_version", "base_model_name_or_path", "revision", "inference_mode",
    "runtime_config",
)  # fmt: skip


@dataclass
class Start:
    """What a run starts from; nothing but configurations has been read yet.

    Attributes:
        base: what `from_pretrained` opens, at `revision`.
        image_size: side of the model frame; None for the base's own.
        config: the adapter or LoRA to be added; None for methods that train SAM's own weights.
        adapter: folder or repo whose weights the new adapter starts from; None for a fresh one.
    """

    base: str
    revision: str | None
    image_size: int | None
    config: AdapterConfig | None
    adapter: str | None = None


def starting_point(recipe: Recipe, text_width: int | None = None, base_may_be_adapter: bool = True) -> Start:
    """Where `model.base` and `model.method` lead.

    Where `model.base` is itself an adapter of this method (a run folder), the new adapter is of its form and starts
    from its weights; fields of `model.adapter` or `model.lora` still count, and parts that it lacks start fresh.

    Args:
        text_width: width of the text model's embeddings; None without text prompts.
        base_may_be_adapter: look whether it is one.

    Raises:
        RecipeError: unknown or impossible fields.
        CheckpointError: a base that is an adapter of another method.
    """
    method, base = recipe.model.method, resolve_base(recipe.model.base)
    if not base_may_be_adapter or find_adapter_config_file(base) is None:
        return Start(base, None, recipe.model.image_size, _make_config(recipe, {}, text_width))
    stored = read_adapter_config(base)
    of = "lora" if isinstance(stored, LoraConfig) else "msa"
    if of != method:
        raise CheckpointError(
            f"model.method {method} cannot start from an adapter of method {of}",
            file=recipe.model.base,
            expected="a SAM" if method in WHOLE else f"a SAM, or the run of method {method}",
            found=f"an adapter of {stored.base_model_name_or_path}",
            hint=f"--model.method {of} goes on from it; --base {stored.base_model_name_or_path} starts afresh",
        )
    values = plain_config(stored)
    form = FORM if of == "msa" else [name for name in values if name not in _NOT_OF_THE_FORM]
    config = _make_config(recipe, {name: values[name] for name in form}, text_width)
    image_size = recipe.model.image_size or AutoConfig.from_pretrained(base).vision_config.image_size
    return Start(stored.base_model_name_or_path, stored.revision, image_size, config, adapter=base)


def _make_config(recipe: Recipe, form: dict, text_width: int | None) -> AdapterConfig | None:
    if recipe.model.method in WHOLE:
        return None
    if recipe.model.method == "lora":
        return make_lora_config(form | recipe.model.lora)
    texts = {"use_text": True, "text_model": recipe.text.model, "text_width": text_width} if text_width else {}
    return make_adapter_config(form | recipe.model.adapter | texts)


def make_adapter_config(fields: dict) -> MSAAdapterConfig:
    """An adapter configuration from a recipe. Raises `RecipeError` for unknown keys and impossible values."""
    return _made(MSAAdapterConfig, fields, "model.adapter", ())


def make_lora_config(fields: dict) -> LoraConfig:
    """A LoRA configuration from a recipe. Raises `RecipeError` for unknown keys and impossible values."""
    return _made(LoraConfig, {"target_modules": LORA_TARGETS} | fields, "model.lora", _NOT_OF_THE_FORM)


def _made(cls: type, fields: dict, section: str, hidden: tuple[str, ...]) -> AdapterConfig:
    known = [field.name for field in dataclasses.fields(cls) if field.name not in hidden]
    for key in fields:
        if key not in known:
            raise RecipeError(
                f"unknown key {section}.{key}", expected=f"fields of {cls.__name__}", found=key,
                hint=did_you_mean(key, known, "remove it", f"{section}."),
            )  # fmt: skip
    try:
        return cls(**fields)
    except (TypeError, ValueError) as error:
        raise RecipeError(f"{section} is not usable", expected=f"fields of {cls.__name__}", found=str(error)) from error


def make_trainable(model: MSAModel, config: AdapterConfig | None, method: str) -> None:
    """Add what is trained to a frozen model, or unfreeze it.

    Raises:
        RecipeError: adapters of blocks that the model does not have, or a LoRA that PEFT cannot add to a SAM.
        CheckpointError: a base that has adapters already.
    """
    if config is None:
        if model._hf_peft_config_loaded:
            raise CheckpointError(
                f"model.method {method} trains SAM's own weights, and this base has adapters",
                file=model.base_name,
                expected="a SAM without adapters",
                found=", ".join(model.peft_config),
                hint="give the adapters' own base",
            )
        return _unfreeze(model, method)
    if isinstance(config, MSAAdapterConfig):
        _check_layers("encoder_layers", config.encoder_layers, len(model.vision_encoder.layers))
        _check_layers("decoder_layers", config.decoder_layers, len(model.mask_decoder.transformer.layers))
    try:
        model.add_msa_adapter(config)
    except CheckpointError:
        raise
    except (TypeError, ValueError) as error:
        raise RecipeError(
            f"model.{'lora' if method == 'lora' else 'adapter'} does not fit the base",
            expected="values that PEFT takes, and modules that a SamModel has (qkv, proj, lin1, lin2, q_proj, ...)",
            found=str(error).splitlines()[0],
        ) from error


def _check_layers(name: str, layers: list[int] | None, blocks: int) -> None:
    absent = [number for number in layers or [] if not 0 <= int(number) < blocks]
    if absent:
        raise RecipeError(
            f"model.adapter.{name} names a block that the base does not have", expected=f"0 to {blocks - 1}",
            found=str(absent[0]),
        )  # fmt: skip


def _unfreeze(model: MSAModel, method: str) -> None:
    model.mask_decoder.requires_grad_(True)
    if method == "full":
        model.vision_encoder.requires_grad_(True)
    # One mask is asked for, so no loss reaches the other three and the predicted IoU; AdamW would only shrink them.
    for part in (model.mask_decoder.iou_prediction_head, *model.mask_decoder.output_hypernetworks_mlps[1:]):
        part.requires_grad_(False)


def chunk_slices(recipe: Recipe, config: AdapterConfig | None) -> int:
    """D of training samples of volumes.

    Args:
        config: of the adapter that is trained, which may have its number of slices from the run it started from.
    """
    if recipe.data.chunk_slices:
        return recipe.data.chunk_slices
    if isinstance(config, MSAAdapterConfig):
        return config.num_slices
    return make_adapter_config(recipe.model.adapter).num_slices


FILES_OF_OTHERS = {
    "network": ("adapter_config.json", "model*.safetensors"),
    "whole": ("adapter_config.json", "network.json"),
    "adapter": ("model*.safetensors", "network.json"),
}
"""What the models of other kinds leave in a run folder: whichever opens first would answer for all."""


def check_run_folder(recipe: Recipe) -> None:
    """Refuse to mix two kinds of models in one folder, or to write over the base.

    Raises:
        RecipeError: `run.output` is the base, or holds a model of another kind: an adapter, all weights of a SAM, or a
            network without prompts.
    """
    folder, method = Path(recipe.run.output), recipe.model.method
    if folder.resolve() == Path(resolve_base(recipe.model.base)).resolve():
        raise RecipeError(
            "the run would write over its own base", file=folder, expected="another run.output",
            found=f"model.base: {recipe.model.base}",
        )  # fmt: skip
    kind = "network" if recipe.is_network else "whole" if method in WHOLE else "adapter"
    strays = sorted(file.name for pattern in FILES_OF_OTHERS[kind] for file in folder.glob(pattern))
    if strays:
        raise RecipeError(
            "run.output holds a model of another kind", file=folder,
            expected=f"a new folder, or one of method {method}", found=strays[0],
            hint="choose another --run.output",
        )  # fmt: skip
