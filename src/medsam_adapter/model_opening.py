"""Opening a folder or Hub repo that holds an adapter and names its base."""

from __future__ import annotations

from typing import Any, TypeVar

from transformers import AutoConfig, SamConfig, SamModel

from medsam_adapter.adapters.files import (
    another_kind_of_adapter,
    load_adapter_weights,
    read_adapter_config,
    read_model_config,
)
from medsam_adapter.adapters.reading import damage_told
from medsam_adapter.backbones import resolve_base
from medsam_adapter.errors import CheckpointError
from medsam_adapter.image_size import set_image_size

Model = TypeVar("Model", bound=SamModel)


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
