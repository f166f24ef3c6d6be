"""The encoder adapters in a checkpoint of the authors' public MSA code, and whether they were made for volumes.

    image_encoder.blocks.{i}.{MLP,Space,Depth}_Adapter.D_fc{1,2}.{weight,bias}

Each block has a depth adapter, which images leave untrained. The optimizer has no state for it then; where there is no
optimizer, its weights still lie in the range PyTorch draws them from, which a single step of that training would leave.

Facts from https://github.com/ImprintLab/Medical-SAM-Adapter (models/common/adapter.py, train.py).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from medsam_adapter.errors import CheckpointError
from medsam_adapter.hub.convert.checkpoint_file import ADAPTER_KEY, Checkpoint
from medsam_adapter.hub.convert.names import POSITIONS

OUR_NAME = {"MLP": "mlp", "Space": "space", "Depth": "depth"}
OUR_LAYER = {"1": "down", "2": "up"}
MLP_SCALE, CHUNK = 0.5, 96
"""The factor of the MLP adapter in that code, and its default for `-chunk`."""


@dataclass
class OfficialAdapters:
    """The adapters of a checkpoint.

    Attributes:
        tensors: by our names, without the depth adapters if images were trained on.
        layers, width, narrow: number of blocks, their width, width of the bottleneck.
        dims: "2d" or "3d".
        notes: what was found out and what was taken for granted, a sentence each.
    """

    tensors: dict[str, Tensor]
    layers: int
    width: int
    narrow: int
    dims: str
    notes: list[str] = field(default_factory=list)


def read_adapters(checkpoint: Checkpoint, dims: str | None = None) -> OfficialAdapters:
    """The adapters of a checkpoint, checked for being whole and of one form.

    Args:
        dims: "2d" or "3d" if the user knows; None finds it out.

    Raises:
        CheckpointError: tensors that are missing or of odd shapes, or a file that leaves 2-D or 3-D open.
    """
    found = {name: m for name in checkpoint.state if (m := ADAPTER_KEY.fullmatch(name))}
    layers = 1 + max(int(m[1]) for m in found.values())
    kinds = [kind for kind in OUR_NAME if any(m[2] == kind for m in found.values())]
    wanted = [
        adapter_key(i, kind, layer, part)
        for i in range(layers)
        for kind in sorted({*kinds, "MLP", "Space"})
        for layer in "12"
        for part in ("weight", "bias")
    ]
    missing = [name for name in wanted if name not in found]
    first = checkpoint.state.get(adapter_key(0, "Space", "1", "weight"))
    if missing or first is None or first.ndim != 2:
        raise CheckpointError(
            "its adapters are not whole", file=checkpoint.file,
            expected=f"space and MLP adapters in each of its {layers} blocks, and depth adapters in all or in none",
            found=f"{len(missing)} missing, e.g. {missing[0]}" if missing else "a weight that is no matrix",
            hint="it may be cut off: download it again",
        )  # fmt: skip
    narrow, width = first.shape
    shapes = {"1weight": (narrow, width), "1bias": (narrow,), "2weight": (width, narrow), "2bias": (width,)}
    odd = [name for name, m in found.items() if tuple(checkpoint.state[name].shape) != shapes[m[3] + m[4]]]
    if odd:
        raise CheckpointError(
            "its adapters are of several sizes", file=checkpoint.file,
            expected=f"the form of the first, {width} to {narrow} and back",
            found=f"{odd[0]}: {tuple(checkpoint.state[odd[0]].shape)}",
            hint="adapters of the public code's ViT encoder all have one size",
        )  # fmt: skip
    notes: list[str] = []
    dims = _dims(checkpoint, "Depth" in kinds, dims, notes)
    tensors = {
        our_key(m): checkpoint.state[name].float() for name, m in found.items() if m[2] != "Depth" or dims == "3d"
    }
    return OfficialAdapters(tensors, layers, width, narrow, dims, notes)


def adapter_key(layer: int, kind: str, projection: str, part: str) -> str:
    """The public code's name, e.g. image_encoder.blocks.0.Space_Adapter.D_fc1.weight."""
    return f"image_encoder.blocks.{layer}.{kind}_Adapter.D_fc{projection}.{part}"


def our_key(match) -> str:
    """The name of the same tensor in an adapter of ours, from a match of `ADAPTER_KEY`."""
    return f"vision_encoder.layers.{int(match[1])}.msa_adapter_{OUR_NAME[match[2]]}.{OUR_LAYER[match[3]]}.{match[4]}"


def _dims(checkpoint: Checkpoint, has_depth: bool, said: str | None, notes: list[str]) -> str:
    if not has_depth:
        if said == "3d":
            raise CheckpointError(
                "it has no depth adapters", file=checkpoint.file, expected="Depth_Adapter in each block for --dims 3d",
                found="space and MLP adapters only", hint="leave --dims out",
            )  # fmt: skip
        notes.append("2-D: it has no depth adapters.")
        return "2d"
    if said:
        notes.append(f"{said[0]}-D, as --dims says.")
        return said
    trained = {kind: _was_trained(checkpoint, kind) for kind in ("Depth", "Space")}
    if trained["Depth"] is None or not (trained["Depth"] or trained["Space"]):
        raise CheckpointError(
            "the file does not show whether it was trained on images or on volumes", file=checkpoint.file,
            expected="depth adapters that were trained, or others that were",
            found="all of them as PyTorch starts them" if trained["Depth"] is not None else "weights in half precision",
            hint="say it: --dims 2d, or --dims 3d --slices N with N the training's -chunk",
        )  # fmt: skip
    if trained["Depth"]:
        notes.append("3-D: its depth adapters were trained.")
        return "3d"
    notes.append("2-D: its depth adapters were never trained; they are left out.")
    return "2d"


def _was_trained(checkpoint: Checkpoint, kind: str) -> bool | None:
    """Whether the adapters of a kind were ever changed; None if that does not show."""
    names = [name for name in checkpoint.state if name != POSITIONS]
    optimizer: Any = checkpoint.training.get("optimizer")
    try:
        steps, groups = optimizer["state"], optimizer["param_groups"]
        numbers = [number for group in groups for number in group["params"]]
    except (TypeError, KeyError):
        numbers, steps = [], {}
    if steps and len(numbers) == len(names):  # an optimizer counts parameters in the order of the state dictionary
        return any(
            number in steps
            for number, name in zip(numbers, names, strict=True)
            if (m := ADAPTER_KEY.fullmatch(name)) and m[2] == kind
        )
    for name, value in checkpoint.state.items():
        if (match := ADAPTER_KEY.fullmatch(name)) and match[2] == kind:
            if value.dtype != torch.float32:
                return None  # rounding alone crosses the border
            inputs = checkpoint.state[adapter_key(int(match[1]), kind, match[3], "weight")].shape[1]
            if value.abs().max() > (1 + 1e-6) / math.sqrt(inputs):
                return True
    return False
