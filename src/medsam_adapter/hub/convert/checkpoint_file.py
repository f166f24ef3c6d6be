"""A file that `torch.save` wrote, read as tensors only, and what kind of checkpoint it is.

A torch file is a pickle, and a pickle may run anything while it is read. It is opened with `weights_only=True`, which
knows tensors and plain containers; a file that needs more is refused and nothing of it is run.
"""

from __future__ import annotations

import pickle
import re
import zipfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from medsam_adapter.errors import CheckpointError

ADAPTER_KEY = re.compile(r"image_encoder\.blocks\.(\d+)\.(MLP|Space|Depth)_Adapter\.D_fc([12])\.(weight|bias)")
"""Names of adapters in checkpoints of the public MSA code, those of its ViT encoder."""
KINDS = ("sam", "medsam", "official")
_WHERE_THE_STATE_IS = ("state_dict", "model_state_dict", "model")


@dataclass
class Checkpoint:
    """What a file holds.

    Attributes:
        file: where it was.
        state: the tensors by name, without the `module.` that DataParallel puts in front.
        training: what else a checkpoint of a training run holds (`epoch`, `model`, `optimizer`, ...).
    """

    file: Path
    state: dict[str, Tensor]
    training: dict[str, Any] = field(default_factory=dict)


def read_checkpoint(file: str | Path) -> Checkpoint:
    """The tensors of a torch file, on the CPU.

    Raises:
        CheckpointError: no such file, one that is cut off, one that needs more than tensors, or one without weights.
    """
    file = Path(file)
    content = _load(file)
    training: dict[str, Any] = {}
    if isinstance(content, dict):
        inner = next((name for name in _WHERE_THE_STATE_IS if isinstance(content.get(name), dict)), None)
        if inner is not None:
            training = {name: value for name, value in content.items() if name != inner}
            content = content[inner]
    if not isinstance(content, dict) or not content or not all(isinstance(name, str) for name in content):
        raise _not_a_checkpoint(file, type(content).__name__)
    strange = [name for name, value in content.items() if not isinstance(value, Tensor)]
    if strange:
        raise _not_a_checkpoint(file, f"a dictionary with {', '.join(strange[:4])}")
    state = dict(content)
    while all(name.startswith("module.") for name in state):
        state = {name.removeprefix("module."): value for name, value in state.items()}
    broken = [name for name, value in state.items() if value.is_floating_point() and not value.isfinite().all()]
    if broken:
        raise CheckpointError(
            "its weights are not numbers", file=file, expected="finite weights",
            found=f"NaN or infinity in {len(broken)} tensors, e.g. {broken[0]}", hint="take an earlier checkpoint",
        )  # fmt: skip
    return Checkpoint(file, state, training)


def kind_of(checkpoint: Checkpoint) -> str:
    """ "sam", "medsam" (the same names; the file's own name tells) or "official".

    Raises:
        CheckpointError: another checkpoint; the error says what it looks like.
    """
    names = list(checkpoint.state)
    if any(ADAPTER_KEY.fullmatch(name) for name in names):
        return "official"
    looks_like = _other_network(names)
    if looks_like is None and {"image_encoder.pos_embed", "mask_decoder.iou_token.weight"} <= set(names):
        return "medsam" if "medsam" in checkpoint.file.name.lower() else "sam"
    raise CheckpointError(
        "this checkpoint cannot be converted",
        file=checkpoint.file,
        expected="Meta's sam_vit_{b,l,h}, MedSAM's medsam_vit_b, or one of the public MSA code with ViT adapters",
        found=looks_like or f"{len(names)} tensors: {', '.join(names[:3])}, ...",
        hint="see docs/convert.md for what can be converted",
    )


def _other_network(names: list[str]) -> str | None:
    """What else is known by its names."""
    if any(".lora_" in name or "lora_A" in name or "lora_B" in name for name in names):
        return "a LoRA; PEFT's open with `peft`, those of the public MSA code fit no public base"
    if any("Adapter" in name or ".adapter" in name.lower() for name in names):
        return "adapters of another encoder or another project (MobileSAM, EfficientSAM, SAM-Med2D, ...)"
    if any(name.startswith("image_encoder.trunk.") for name in names):
        return "SAM 2"
    if any(name.startswith(("image_encoder.layers.", "image_encoder.backbone.")) for name in names):
        return "MobileSAM or another small SAM, whose encoder is no ViT"
    if any(name.startswith("vision_encoder.") for name in names):
        return "a SamModel of transformers, which needs no conversion: give its folder as --base"
    return None


def _load(file: Path) -> Any:
    if file.is_dir():
        raise CheckpointError(
            "is a folder", file=file, expected="a .pth file that torch.save wrote", found="a folder",
            hint="a run is converted with --to official",
        )  # fmt: skip
    if not file.exists():
        raise CheckpointError(
            "is not there", file=file, expected="a .pth file", found="nothing", hint="check the spelling of the path"
        )
    try:
        # Mapped, a ViT-H of 2.5 GB is not read twice; the older format of torch.save cannot be.
        return torch.load(file, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(file))
    except pickle.UnpicklingError as error:
        reason = re.search(r"(?:GLOBAL|global)\s+`?([\w.]+)", str(error))
        if reason is None:
            raise _unreadable(file, str(error)) from error
        raise CheckpointError(
            "holds more than tensors, and reading it would run code of the file's author",
            file=file,
            expected="tensors, numbers, texts, lists and dictionaries",
            found=reason.group(1),
            hint="nothing was run. If you trust the file, save its state dictionary alone: "
            "torch.save(content['state_dict'], ...)",
        ) from error
    except (
        RuntimeError, EOFError, ValueError, LookupError, AttributeError, TypeError, OverflowError, zipfile.BadZipFile,
        MemoryError, AssertionError,
    ) as error:  # fmt: skip
        raise _unreadable(file, str(error)) from error


def _unreadable(file: Path, reason: str) -> CheckpointError:
    return CheckpointError(
        "cannot be read",
        file=file,
        expected="a whole file that torch.save wrote",
        found=(reason.strip().splitlines() or ["an end where there is more to come"])[0][:200],
        hint="it may be cut off: copy or download it again",
    )


def _not_a_checkpoint(file: Path, found: str) -> CheckpointError:
    return CheckpointError(
        "holds no weights by name",
        file=file,
        expected="a state dictionary, or a dictionary with one under state_dict",
        found=found,
        hint="give the file that training saved",
    )
