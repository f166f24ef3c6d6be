"""Writing a folder that holds an adapter and names its base: what `model_opening` opens."""

from __future__ import annotations

from pathlib import Path

from torch import Tensor

from medsam_adapter.adapters.files import save_adapter
from medsam_adapter.errors import CheckpointError
from medsam_adapter.several_adapters import SeveralAdapters


def write_adapter_folder(
    model: SeveralAdapters, folder: Path, adapter_name: str, state_dict: dict[str, Tensor] | None = None
) -> None:
    """The weights and the configuration of one adapter, and the config.json with its labels.

    Args:
        model: an `MSAModel`.
        state_dict: as `save_adapter` takes it.

    Raises:
        CheckpointError: nobody knows where the base is to be found.
    """
    base = model.peft_config[adapter_name].base_model_name_or_path or model.base_name
    if not base:
        raise CheckpointError(
            "the adapter's base was made in memory, so nobody could open the adapter later",
            file=folder,
            expected="a base with a name",
            found="none",
            hint="save the base first, or use save_pretrained(..., full=True)",
        )
    folder.mkdir(parents=True, exist_ok=True)
    save_adapter(model, folder, adapter_name, base, state_dict)
    model.config.architectures = [type(model).__name__]
    model.config.adapter_configs = model.config.active_adapters = None
    with model.using_adapter(adapter_name):  # its labels
        model.config.save_pretrained(folder)
