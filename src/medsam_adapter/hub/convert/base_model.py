"""The SAM an official checkpoint was trained on: opened, and compared with the SAM inside the checkpoint."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from medsam_adapter.errors import CheckpointError, MSAError
from medsam_adapter.hub.convert.checkpoint_file import ADAPTER_KEY, Checkpoint
from medsam_adapter.hub.convert.names import DECODER, ENCODER, PROMPTS, meta_name, one_name
from medsam_adapter.modeling_msa import MSAModel


@dataclass
class Compared:
    """What the SAM inside a checkpoint says of the training.

    Attributes:
        positions: "all", "windowed" or "none", which blocks had relative positions; None if the file has no encoder.
    """

    positions: str | None


def open_base(base: str) -> MSAModel:
    """A SAM without adapters, frozen.

    Raises:
        CheckpointError: if it cannot be opened or has adapters.
    """
    try:
        model = MSAModel.from_base(base)
    except MSAError:
        raise
    except (OSError, ValueError) as error:
        raise CheckpointError(
            "the base cannot be opened",
            file=base,
            expected="sam-tiny, a Hub id such as facebook/sam-vit-base, or a folder of a SamModel",
            found=(str(error).strip().splitlines() or [type(error).__name__])[0],
            hint="check the name and the network, or make one: msa convert sam_vit_b_01ec64.pth -o BASE",
        ) from error
    if model._hf_peft_config_loaded:
        raise CheckpointError(
            "the base has adapters already", file=base, expected="a SAM without adapters",
            found=", ".join(model.peft_config), hint="give the adapters' own base",
        )  # fmt: skip
    return model


def compare_with_base(checkpoint: Checkpoint, model: MSAModel, base: str, decoder: bool) -> Compared:
    """Make sure that the frozen part of a checkpoint is the base, and that nothing in it is unknown or half there.

    Args:
        decoder: whether the mask decoder will be used; it was trained, so only its form is compared.

    Raises:
        CheckpointError: another base, a checkpoint that is not whole, or a decoder of another form.
    """
    state = {name: value for name, value in checkpoint.state.items() if not ADAPTER_KEY.fullmatch(name)}
    state = {one_name(name): value for name, value in state.items()}
    places = {meta_name(name): value for name, value in model.state_dict().items()}
    unknown = sorted(set(state) - set(places))
    if any(name.startswith((f"{DECODER}mask_tokens", f"{DECODER}output_hypernetworks_mlps")) for name in unknown):
        unknown = [] if not decoder else unknown  # more classes than SAM has mask tokens; see below
    missing = [
        name for part in (ENCODER, PROMPTS, DECODER) if any(given.startswith(part) for given in state)
        for name in places if name.startswith(part) and name not in state
    ]  # fmt: skip
    if decoder:
        _check_decoder(checkpoint, state, places)
    if unknown or missing:
        raise CheckpointError(
            "holds only a part of a SAM, or more than one", file=checkpoint.file,
            expected="encoder, prompt encoder and mask decoder of the base, each whole or not at all, and adapters",
            found=f"{len(missing)} missing, {len(unknown)} unknown"
            + "".join(f"; e.g. {group[0]}" for group in (missing, unknown) if group),
            hint="it may come from another project; see docs/convert.md for what can be converted",
        )  # fmt: skip
    tables = {name for name in state if ".attn.rel_pos_" in name}
    frozen = [name for name in state if not name.startswith(DECODER) and name not in tables]
    differing = [name for name in frozen if not _same(state[name], places[name])]
    lost: dict[int, bool] = {}
    for name in sorted(tables):
        number = int(name.split(".")[2])
        if _same(state[name], places[name]):
            lost.setdefault(number, False)
        elif not state[name].any():
            lost[number] = True
        else:
            differing.append(name)
    if differing:
        raise CheckpointError(
            "was trained on another SAM than the base", file=checkpoint.file, expected=f"the frozen weights of {base}",
            found=f"{len(differing)} of {len(frozen) + len(tables)} tensors differ, e.g. {differing[0]}",
            hint="name its own with --base; msa convert FILE --kind sam -o BASE takes the SAM out of the file",
        )  # fmt: skip
    return Compared(_positions(lost, model, checkpoint) if tables else None)


def _positions(lost: dict[int, bool], model: MSAModel, checkpoint: Checkpoint) -> str:
    without = {number for number, is_lost in lost.items() if is_lost}
    if not without:
        return "all"
    global_blocks = set(model.config.vision_config.global_attn_indexes)
    if without == set(lost):
        return "none"
    if without == global_blocks:
        return "windowed"
    raise CheckpointError(
        "lost its relative positions in a way that is not known", file=checkpoint.file,
        expected="all blocks without them, or those of global attention, or none", found=f"blocks {sorted(without)}",
        hint="please report it; the adapter cannot be computed as it was trained",
    )  # fmt: skip


def _check_decoder(checkpoint: Checkpoint, state: dict[str, Tensor], places: dict[str, Tensor]) -> None:
    wrong = [
        name for name, value in state.items()
        if name.startswith(DECODER) and name in places and value.shape != places[name].shape
    ]  # fmt: skip
    if not wrong:
        return
    tokens = f"{DECODER}mask_tokens.weight"
    if tokens in wrong:
        found = f"{len(state[tokens])} masks at once (-multimask_output)"
        expected = f"at most {len(places[tokens])}, as SAM's mask decoder has"
    else:
        found = f"{wrong[0]}: {tuple(state[wrong[0]].shape)}"
        expected = str(tuple(places[wrong[0]].shape))
    raise CheckpointError(
        "its mask decoder is of another form than SAM's", file=checkpoint.file, expected=expected, found=found,
        hint="--adapters-only converts the encoder's adapters without it",
    )  # fmt: skip


def _same(given: Tensor, own: Tensor) -> bool:
    return given.shape == own.shape and torch.allclose(given.float(), own.float(), rtol=1e-3, atol=1e-5)
