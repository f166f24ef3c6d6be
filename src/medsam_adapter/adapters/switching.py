"""Which adapters of a model answer: reading it, changing it, and changing it for one call.

Only names in the wrapped layers change; no weight is read or moved, so that a switch costs microseconds a layer. PEFT's
own `set_adapter` also decides what is trained, and refuses adapters that do not all touch the same modules.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import TypeAlias

from peft.tuners.tuners_utils import BaseTunerLayer
from peft.utils.other import AuxiliaryTrainingWrapper
from torch import nn

AdapterLayer: TypeAlias = BaseTunerLayer | AuxiliaryTrainingWrapper


def adapter_layers(model: nn.Module) -> list[AdapterLayer]:
    """The layers of a model that hold adapters by name: MSA's, LoRA's, and modules trained whole.

    A walk of its own: it does not look into the adapters themselves, and takes a quarter of `model.modules()`' time.
    """
    found: list[AdapterLayer] = []
    waiting, seen = [model], {id(model)}
    while waiting:
        module = waiting.pop()
        adapters: tuple[str, ...] = ()
        if isinstance(module, AdapterLayer):
            found.append(module)
            adapters = module.adapter_layer_names if isinstance(module, BaseTunerLayer) else ()
        for name, child in module._modules.items():
            if child is not None and name not in adapters and id(child) not in seen:
                seen.add(id(child))
                waiting.append(child)
    return found


def names_in(layer: AdapterLayer) -> set[str]:
    """Names of the adapters that a layer holds weights of."""
    return {name for part in layer.adapter_layer_names for name in getattr(layer, part)}


def active_adapters(model: nn.Module, even_if_off: bool = False) -> list[str]:
    """Names of the adapters that answer, sorted; none for a plain SAM.

    Args:
        even_if_off: also those that `disable_adapters` has switched off.
    """
    layers = [layer for layer in adapter_layers(model) if even_if_off or not layer.disable_adapters]
    return sorted({name for layer in layers for name in set(layer.active_adapters) & names_in(layer)})


def loaded_as(model: nn.Module, names: Sequence[str]) -> list[object]:
    """What now stands under these names, to be compared with `is`: their PEFT configs, of which each loading makes a
    new one; None under a name that is not there."""
    configs = getattr(model, "peft_config", {})
    return [configs.get(name) for name in names]


def switch_to(layers: Sequence[AdapterLayer], names: Sequence[str]) -> None:
    """Let the adapters of these names answer, and no other; without a name the plain SAM. What is trained stays."""
    for layer in layers:
        held = names_in(layer)
        layer._active_adapter = [name for name in names if name in held]
        layer._disable_adapters = not layer._active_adapter


@contextlib.contextmanager
def adapters_on(model: nn.Module, names: Sequence[str]) -> Iterator[None]:
    """`switch_to` for what happens inside."""
    layers = adapter_layers(model)
    before = [(layer, layer._active_adapter, layer._disable_adapters) for layer in layers]
    try:
        switch_to(layers, names)
        yield
    finally:
        for layer, active, is_off in before:
            layer._active_adapter, layer._disable_adapters = active, is_off


def has_trained(layers: Sequence[AdapterLayer]) -> bool:
    """Whether a weight of any adapter is trained."""
    return any(
        parameter.requires_grad
        for layer in layers
        for part in layer.adapter_layer_names
        for parameter in getattr(layer, part).parameters()
    )


def train_only(layers: Sequence[AdapterLayer], names: Sequence[str]) -> None:
    """Let the weights of these adapters be trained, and freeze those of all others."""
    for layer in layers:
        for part in layer.adapter_layer_names:
            for name, module in getattr(layer, part).items():
                module.requires_grad_(name in names)
        if isinstance(layer, BaseTunerLayer):
            layer._freeze_non_trainable_peft_weights()  # what a LoRA variant never trains
