"""Weights and optimiser states that FSDP2 keeps in shards (DTensor), as whole tensors and back.

A checkpoint holds whole tensors, so that it can be resumed with another number of processes. All of this is a matter of
all processes: each has to call it, in the same order. Ordinary tensors pass as they are.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor, distribute_tensor


def whole(tensor: Tensor) -> Tensor:
    """The tensor with its shards gathered."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def like(parameter: Tensor, value: Tensor) -> Tensor:
    """A whole tensor in the shards of a parameter, and on its device."""
    if not isinstance(parameter, DTensor):
        return value
    return distribute_tensor(value.to(parameter.device), parameter.device_mesh, parameter.placements)


def optimizer_state(optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """`state_dict()` with whole tensors on the CPU."""
    state = optimizer.state_dict()
    rows = {
        number: {key: whole(value).cpu() if isinstance(value, Tensor) else value for key, value in row.items()}
        for number, row in state["state"].items()
    }
    return {**state, "state": rows}


def load_optimizer_state(optimizer: torch.optim.Optimizer, state: dict[str, Any]) -> None:
    """`load_state_dict()` of what `optimizer_state` gave."""
    parameters = [p for group in optimizer.param_groups for p in group["params"]]  # state_dict numbers them so
    rows = {
        number: {key: value if key == "step" else _placed(parameters[number], value) for key, value in row.items()}
        for number, row in state["state"].items()
    }
    optimizer.load_state_dict({**state, "state": rows})


def _placed(parameter: Tensor, value: Any) -> Any:
    return like(parameter, value) if isinstance(value, Tensor) and value.shape == parameter.shape else value
