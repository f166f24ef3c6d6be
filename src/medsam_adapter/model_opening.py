"""Opening a folder or Hub repo: a SAM (plain, or with its adapters in one file), or an adapter that names its base."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

from safetensors import SafetensorError
from transformers import AutoConfig, SamConfig, SamModel

from medsam_adapter.adapters.files import (
    another_kind_of_adapter,
    load_adapter_weights,
    read_adapter_config,
    read_model_config,
)
from medsam_adapter.adapters.pickles import find_pickle, pickled
from medsam_adapter.adapters.reading import damage_told, unreadable
from medsam_adapter.backbones import resolve_base
from medsam_adapter.configuration_msa import MSAConfig
from medsam_adapter.errors import CheckpointError
from medsam_adapter.image_size import set_image_size

Model = TypeVar("Model", bound=SamModel)
HUB_ARGUMENTS = ("cache_dir", "force_download", "local_files_only", "token", "proxies")


def read_sam_config(name: str, config: SamConfig | str | None, source: dict[str, Any]) -> MSAConfig:
    """The configuration of a plain SAM or a full MSA repo.

    Args:
        config: in place of the config.json in the folder or Hub repo, or where to read it.
        source: where in the Hub it lies: `revision`, `subfolder`, `token`, ...

    Raises:
        CheckpointError: one that cannot be read, or of another model.
    """
    if not isinstance(config, SamConfig):
        with damage_told(config or name, "config.json", "the configuration of a SAM"):
            config = AutoConfig.from_pretrained(config or name, **source)
    if not isinstance(config, SamConfig):
        raise CheckpointError(
            "this is not a SAM",
            file=name,
            expected="a model of type sam or msa",
            found=str(getattr(config, "model_type", config)),
            hint="take facebook/sam-vit-base, an MSA repo, or sam-tiny",
        )
    return config if isinstance(config, MSAConfig) else MSAConfig.from_sam(config)


@contextmanager
def weights_told(name: str, source: dict[str, Any]) -> Iterator[None]:
    """Makes a CheckpointError of weights of a SAM that cannot be read, or that are there as a pickle only."""
    try:
        yield
    except SafetensorError as error:
        raise unreadable(name, "model.safetensors", "safetensors of a SAM", error) from error
    except OSError as error:
        if found := find_pickle(name, "pytorch_model.bin", "pytorch_model.bin.index.json", **source):
            raise pickled(name, found) from error
        raise


def open_adapter(
    cls: type[Model],
    at: str,
    args: tuple,
    config: SamConfig | str | None,
    adapter_name: str,
    is_trainable: bool,
    source: dict[str, Any],
    hub: dict[str, Any],
    kwargs: dict[str, Any],
) -> Model:
    """The base that an adapter names, with the adapter in it and the settings of its config.json.

    Args:
        cls: `MSAModel`.
        at: folder or Hub id of the adapter.
        args, kwargs: for `cls.from_pretrained` of the base.
        config: in place of the config.json beside the adapter, or where to read it.
        source: where in the Hub the adapter lies: `hub`, `revision`, `subfolder`.
        hub: `token`, `cache_dir`, ...; they go for the base, too.

    Raises:
        CheckpointError: another kind of adapter, one that does not fit its base, or a base that is not recorded or
            cannot be opened.
    """
    adapter = read_adapter_config(at, **source)
    if not adapter.base_model_name_or_path:
        raise CheckpointError(
            "the adapter does not say which SAM it belongs to",
            file=at,
            expected="base_model_name_or_path in adapter_config.json",
            found="none",
            hint='write it there, e.g. "facebook/sam-vit-base"',
        )
    if not isinstance(config, SamConfig):
        config = read_model_config(config or at, **source)
    base = resolve_base(adapter.base_model_name_or_path)
    kwargs = {key: value for key, value in kwargs.items() if key not in hub}
    try:
        with damage_told(base, "config.json", "the configuration of a SAM"):
            base_type = AutoConfig.from_pretrained(base, revision=adapter.revision, **hub).model_type
        if base_type not in ("sam", "msa"):
            raise another_kind_of_adapter(at, adapter, base_type)
        model = cls.from_pretrained(base, *args, revision=adapter.revision, **hub, **kwargs)
    except OSError as error:
        raise CheckpointError(
            f"its base {adapter.base_model_name_or_path!r} cannot be opened",
            file=at,
            expected="a SAM on the Hub or in a folder",
            found=str(error).splitlines()[0],
            hint="check the name and the network, or put the base where base_model_name_or_path says",
        ) from error
    if config is not None:
        set_image_size(model, config.vision_config.image_size)
        model.config.id2label = config.id2label
        model.config.num_slices = getattr(config, "num_slices", 1)
    adapter.inference_mode = not is_trainable
    load_adapter_weights(model, at, adapter, adapter_name, **source)
    model._hf_peft_config_loaded = True
    model.eval()
    return model
