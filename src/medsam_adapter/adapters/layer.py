"""What wrapped encoder and decoder blocks have in common: several adapters by name, switched on and off by PEFT."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import Tensor, nn

from medsam_adapter.adapters.config import MSAAdapterConfig
from medsam_adapter.errors import MergeNotSupportedError


class MSALayer(BaseTunerLayer):
    """Mixin of the wrapped blocks. `base_layer` is the frozen SAM block; each name in `adapter_layer_names` is a
    `ModuleDict` {adapter name: bottleneck}."""

    other_param_names: tuple[str, ...] = ("mlp_scale",)

    def _start(self, base_layer: nn.Module, adapter_name: str, config: MSAAdapterConfig) -> None:
        self.base_layer = base_layer
        self.mlp_scale: dict[str, float] = {}
        for name in self.adapter_layer_names:
            setattr(self, name, nn.ModuleDict())
        self._disable_adapters = False
        self.merged_adapters: list[str] = []
        self._active_adapter = adapter_name
        self.update_layer(adapter_name, config)

    def make_adapters(self, config: MSAAdapterConfig) -> dict[str, nn.Module]:
        """{attribute name: fresh module} of one adapter."""
        raise NotImplementedError

    def update_layer(self, adapter_name: str, config: MSAAdapterConfig) -> None:
        """Add an adapter, on the device and in the dtype of the block."""
        self.mlp_scale[adapter_name] = config.mlp_scale
        for name, module in self.make_adapters(config).items():
            getattr(self, name)[adapter_name] = module
        parameter = next(self.get_base_layer().parameters())
        if parameter.device.type != "meta":
            for name in self.adapter_layer_names:
                if adapter_name in getattr(self, name):
                    module = getattr(self, name)[adapter_name]
                    if not any(p.device.type == "meta" for p in module.parameters()):
                        module.to(parameter.device, dtype=parameter.dtype)
        self.set_adapter(self.active_adapters, inference_mode=config.inference_mode)

    @property
    def is_plain(self) -> bool:
        """Whether the block has to behave as SAM's own."""
        return self.disable_adapters or not any(name in self.mlp_scale for name in self.active_adapters)

    def adapted(self, which: str, hidden_states: Tensor, *inputs: Tensor) -> Iterator[tuple[Tensor, float]]:
        """What the active adapters called `which` make of the hidden states: fresh tensors, and the factor of each."""
        modules = getattr(self, which)
        for name in self.active_adapters:
            if name in modules:
                yield modules[name](hidden_states, *inputs), self.mlp_scale[name] if which.endswith("_mlp") else 1.0

    def plus_adapted(self, total: Tensor, which: str, hidden_states: Tensor, *inputs: Tensor) -> Tensor:
        """`total` and all of `adapted`, in a new tensor."""
        for out, scale in self.adapted(which, hidden_states, *inputs):
            total = torch.add(total, out, alpha=scale)
        return total

    def merge(self, safe_merge: bool = False, adapter_names: list[str] | None = None) -> None:
        raise MergeNotSupportedError(
            "MSA adapters cannot be merged into SAM's weights",
            expected="a linear adapter such as LoRA",
            found="a bottleneck with an activation between its projections",
            hint="keep the adapter beside the base: its file is a few MB and save_pretrained(full=True) ships both",
        )

    def unmerge(self) -> None:
        """Nothing was merged."""
