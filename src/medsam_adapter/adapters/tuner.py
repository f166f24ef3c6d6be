"""Which blocks of a `SamModel` are wrapped, and how PEFT comes to know the method."""

from __future__ import annotations

import peft.mapping
from peft.tuners.tuners_utils import BaseTuner
from torch import nn
from transformers.models.sam.modeling_sam import SamPromptEncoder, SamTwoWayAttentionBlock, SamVisionLayer

from medsam_adapter.adapters.config import MSAAdapterConfig, MSAPeftType
from medsam_adapter.adapters.layer import MSALayer
from medsam_adapter.adapters.prompt_encoder import MSAPromptEncoder
from medsam_adapter.adapters.two_way_block import MSATwoWayBlock
from medsam_adapter.adapters.vision_layer import MSAVisionLayer

PREFIX = MSAPeftType.MSA_ADAPTER.value.lower() + "_"
"""Start of every adapter module's name; transformers' `delete_adapter` builds it from the type in just this way."""


class MSATuner(BaseTuner):
    """Wraps whole encoder and decoder blocks: the figure's adapters need what a block's submodules do not see."""

    prefix = PREFIX
    tuner_layer_cls = MSALayer
    target_module_mapping: dict[str, str] = {}

    def _prepare_adapter_config(self, peft_config: MSAAdapterConfig, model_config: dict) -> MSAAdapterConfig:
        return peft_config  # the configuration itself knows its targets

    def _create_and_replace(
        self, peft_config, adapter_name, target, target_name, parent, current_key, parameter_name=None
    ) -> None:
        if isinstance(target, MSALayer):
            target.update_layer(adapter_name, peft_config)
            return
        if isinstance(target, SamVisionLayer):
            wrapped: MSALayer = MSAVisionLayer(target, adapter_name, peft_config)
        elif isinstance(target, SamTwoWayAttentionBlock):
            wrapped = MSATwoWayBlock(target, adapter_name, peft_config)
        elif isinstance(target, SamPromptEncoder):
            wrapped = MSAPromptEncoder(target, adapter_name, peft_config)
        else:
            raise ValueError(
                "MSA adapters wrap SamVisionLayer, SamTwoWayAttentionBlock and SamPromptEncoder; "
                f"{current_key} is a {type(target).__name__}"
            )
        if adapter_name not in self.active_adapters:
            wrapped.requires_grad_(False)
        self._replace_module(parent, target_name, wrapped, target)

    def _replace_module(self, parent: nn.Module, child_name: str, new_module: nn.Module, child: nn.Module) -> None:
        setattr(parent, child_name, new_module)  # PEFT's own looks for child.weight, which a whole block does not have

    @classmethod
    def _get_adapter_state_dict(cls, model, config, adapter_name, state_dict, unwanted_adapter_names) -> dict:
        """Only what an adapter has added. PEFT counts all of a wrapped layer but its `base_layer`, and a wrapped prompt
        encoder has SAM's own parts beside that."""
        found = super()._get_adapter_state_dict(model, config, adapter_name, state_dict, unwanted_adapter_names)
        return {key: value for key, value in found.items() if "." + cls.prefix in key}

    @classmethod
    def _remove_adapter_name_from_key(cls, key: str, adapter_name: str) -> str:
        """`...msa_adapter_space.NAME.down.weight` -> `...msa_adapter_space.down.weight`.

        PEFT's own strips a name that stands right before the parameter; here it stands before a module, and a renamed
        adapter would silently load nothing.
        """
        head, found, tail = key.rpartition("." + cls.prefix)
        if not found:
            return super()._remove_adapter_name_from_key(key, adapter_name)
        attribute, _, rest = tail.partition(".")
        return head + found + attribute + "." + rest.removeprefix(adapter_name + ".")


def register_peft_method() -> None:
    """Enter the method into PEFT's tables; calling it again changes nothing.

    PEFT's `register_peft_method` accepts only names of its own enum, so the tables are filled directly.

    Raises:
        RuntimeError: if another package holds the name, or PEFT's tables are not where they were.
    """
    tables = {
        "PEFT_TYPE_TO_CONFIG_MAPPING": MSAAdapterConfig,
        "PEFT_TYPE_TO_TUNER_MAPPING": MSATuner,
        "PEFT_TYPE_TO_PREFIX_MAPPING": PREFIX,
    }
    for table, value in tables.items():
        mapping = getattr(peft.mapping, table, None)
        if not isinstance(mapping, dict):
            raise RuntimeError(f"this version of peft has no peft.mapping.{table}: medsam-adapter needs peft 0.21")
        if mapping.setdefault(MSAPeftType.MSA_ADAPTER, value) is not value:
            raise RuntimeError(
                f"another package has registered {MSAPeftType.MSA_ADAPTER.value} in peft.mapping.{table}"
            )


register_peft_method()
