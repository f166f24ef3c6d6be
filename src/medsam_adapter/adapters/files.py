"""Adapter files: `adapter_config.json` and `adapter_model.safetensors`, as PEFT writes and reads them.

Two methods are read: MSA's own, and PEFT's LoRA as a comparison.

The keys are PEFT's (`base_model.model.` + SamModel's names), so that `MSAModel`, `PeftModel` and
`SamModel.load_adapter` open the same file. PEFT's own saving asks the Hub about the base, which an offline machine
waits for; this does not.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TypeAlias

from peft import LoraConfig, PeftConfig, inject_adapter_in_model
from peft.utils import get_peft_model_state_dict, set_peft_model_state_dict
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import AutoConfig, SamConfig
from transformers.utils import CONFIG_NAME, cached_file

from medsam_adapter.adapters.config import MSAAdapterConfig
from medsam_adapter.adapters.pickles import find_pickle, pickled
from medsam_adapter.adapters.reading import damage_told
from medsam_adapter.errors import CheckpointError

AdapterConfig: TypeAlias = MSAAdapterConfig | LoraConfig
WEIGHTS_NAME = "adapter_model.safetensors"
KEY_PREFIX = "base_model.model."


def save_adapter(
    model: nn.Module, folder: Path, adapter_name: str, base: str, state_dict: dict[str, Tensor] | None = None
) -> None:
    """Write one adapter of a model into a folder.

    Args:
        base: Hub id, folder or shipped name of the backbone, recorded as `base_model_name_or_path`.
        state_dict: the model's weights by name, at least the adapter's; its own if None.
    """
    config: AdapterConfig = model.peft_config[adapter_name]
    state = get_peft_model_state_dict(model, state_dict, adapter_name, save_embedding_layers=False)
    tensors = {KEY_PREFIX + key: value.detach().cpu().contiguous().clone() for key, value in state.items()}
    recorded, mode = config.base_model_name_or_path, config.inference_mode
    config.base_model_name_or_path, config.inference_mode = base, True
    try:
        config.save_pretrained(folder)
    finally:
        config.base_model_name_or_path, config.inference_mode = recorded, mode
    save_file(tensors, folder / WEIGHTS_NAME, metadata={"format": "pt"})


def plain_config(config: AdapterConfig) -> dict:
    """A configuration as JSON takes it."""
    values = {key: getattr(value, "value", value) for key, value in dataclasses.asdict(config).items()}
    values.pop("runtime_config", None)  # LoRA's settings of one process; PEFT does not save them either
    return {key: sorted(value) if isinstance(value, set) else value for key, value in values.items()}


def config_from_plain(values: dict) -> AdapterConfig:
    """The other way round."""
    return PeftConfig.from_peft_type(**values)


def read_adapter_config(name: str, **source) -> AdapterConfig:
    """The adapter configuration of a folder or Hub repo.

    Raises:
        CheckpointError: if it belongs to another PEFT method.
    """
    with damage_told(name, "adapter_config.json", "the configuration of an MSA adapter or a LoRA"):
        config = PeftConfig.from_pretrained(name, **source)
    if not isinstance(config, AdapterConfig):
        raise another_kind_of_adapter(name, config)
    return config


def read_model_config(name: str, **source) -> SamConfig | None:
    """The config.json beside an adapter; None for a folder or Hub repo without one, as PEFT alone writes it.

    Raises:
        CheckpointError: one that cannot be read, or of another model.
    """
    absent_is_none = {f"_raise_exceptions_for_{what}": False for what in ("missing_entries", "connection_errors")}
    try:
        if cached_file(name, CONFIG_NAME, **absent_is_none, **source) is None:
            return None
        with damage_told(name, CONFIG_NAME, "the configuration of a SAM"):
            config = AutoConfig.from_pretrained(name, **source)
    except OSError:  # a Hub repo that cannot be reached
        return None
    if not isinstance(config, SamConfig):
        raise CheckpointError(
            f"its {CONFIG_NAME} is not that of a SAM", file=name, expected="model_type msa or sam",
            found=config.model_type, hint="copy or download the folder again",
        )  # fmt: skip
    return config


def another_kind_of_adapter(name: str, config: PeftConfig, model_type: str = "") -> CheckpointError:
    """The error of an adapter of another method, or for another architecture than SAM."""
    kind = str(getattr(config.peft_type, "value", config.peft_type))
    return CheckpointError(
        "this is another kind of adapter",
        file=name,
        expected="peft_type MSA_ADAPTER, or LORA on a SAM",
        found=f"{kind} on {config.base_model_name_or_path}, a model of type {model_type}" if model_type else kind,
        hint="open it with peft's PeftModel",
    )


def load_adapter_weights(model: nn.Module, name: str, config: AdapterConfig, adapter_name: str, **source) -> None:
    """Add an adapter to a model and fill it from a folder or Hub repo; every tensor must find its place.

    Raises:
        CheckpointError: missing or unreadable file, missing or unexpected tensors, or an adapter for another width.
    """
    state = _read_weights(name, **source)
    try:
        inject_adapter_in_model(config, model, adapter_name)
    except (ValueError, TypeError) as error:  # a LoRA whose target modules SAM does not have
        raise CheckpointError(
            "the adapter does not fit its base",
            file=name,
            expected="target modules that the base has",
            found=str(error).splitlines()[0],
            hint="open it with the base it was trained on (base_model_name_or_path in adapter_config.json)",
        ) from error
    expected = get_peft_model_state_dict(model, adapter_name=adapter_name, save_embedding_layers=False)
    state = _without_sams_own(state, expected, config)
    wrong = [
        f"{k}: {tuple(state[k].shape)} for {tuple(v.shape)}"
        for k, v in expected.items()
        if k in state and state[k].shape != v.shape
    ]
    if set(expected) != set(state) or wrong:
        missing, extra = sorted(set(expected) - set(state)), sorted(set(state) - set(expected))
        raise CheckpointError(
            "the adapter does not fit its base",
            file=name,
            expected=f"{len(expected)} tensors of the base's width",
            found=f"{len(missing)} missing, {len(extra)} unknown, {len(wrong)} of another shape"
            + "".join(f"; e.g. {group[0]}" for group in (missing, extra, wrong) if group),
            hint="open it with the base it was trained on (base_model_name_or_path in adapter_config.json)",
        )
    set_peft_model_state_dict(model, state, adapter_name=adapter_name)


def start_from_adapter(model: nn.Module, name: str, adapter_name: str = "default", **source) -> int:
    """Fill a fresh adapter from another one's file, as far as that goes; what the file does not have stays fresh.

    Returns:
        the number of tensors that were filled.

    Raises:
        CheckpointError: a file that cannot be read, or a tensor in it that finds no place in the adapter.
    """
    state = _read_weights(name, **source)
    own = get_peft_model_state_dict(model, adapter_name=adapter_name, save_embedding_layers=False)
    state = _without_sams_own(state, own, model.peft_config[adapter_name])
    lost = [key for key, value in state.items() if key not in own or own[key].shape != value.shape]
    if lost:
        raise CheckpointError(
            "the adapter to start from has another form than the one to be trained",
            file=name,
            expected="the same settings (bottleneck_ratio, use_depth, prompt_fusion, ...; r, target_modules of a LoRA)",
            found=f"{len(lost)} of {len(state)} tensors without a place, e.g. {lost[0]}",
            hint="take the fields from its adapter_config.json, or leave model.adapter (model.lora) empty",
        )
    set_peft_model_state_dict(model, own | state, adapter_name=adapter_name)
    return len(state)


def _without_sams_own(state: dict[str, Tensor], own: dict[str, Tensor], config: AdapterConfig) -> dict[str, Tensor]:
    """The first files of text adapters also hold SAM's prompt encoder, as it is in the base; it stays the base's."""
    if not isinstance(config, MSAAdapterConfig):
        return state
    sams = {key for key in state if key.startswith("prompt_encoder.") and "msa_adapter_" not in key}
    return {key: value for key, value in state.items() if key in own or key not in sams}


def _read_weights(name: str, **source) -> dict[str, Tensor]:
    """The tensors of an adapter file by SamModel's names."""
    try:
        tensors = load_file(cached_file(name, WEIGHTS_NAME, **source))
    except (OSError, SafetensorError) as error:
        if found := find_pickle(name, "adapter_model.bin", **source):
            raise pickled(name, found) from error
        raise CheckpointError(
            f"{WEIGHTS_NAME} cannot be read",
            file=name,
            expected="a safetensors file beside adapter_config.json",
            found=str(error).splitlines()[0],
            hint="copy or download the folder again",
        ) from error
    return {key.removeprefix(KEY_PREFIX): value for key, value in tensors.items()}
