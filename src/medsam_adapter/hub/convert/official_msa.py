"""Checkpoints of the authors' public MSA code -> an MSA adapter repo that computes what they were trained for.

Two forms are read: the full dictionary of a training run ({epoch, model, state_dict, optimizer, ...}, with SAM inside
and the mask decoder that was trained along), and files of the Medical-Adapter-Zoo, which hold encoder adapters only.
What the code computes is `adapters/official_block.py`.

Some versions of the code had lost SAM's relative positions (the tables were renamed, or left out at another image size)
and trained round that. A full dictionary shows it by tables of zeros.

Facts from https://github.com/ImprintLab/Medical-SAM-Adapter (models/, train.py, function.py, utils.py, cfg.py).
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from peft.utils import get_peft_model_state_dict, set_peft_model_state_dict
from torch import Tensor

from medsam_adapter.adapters.config import MSAAdapterConfig
from medsam_adapter.errors import CheckpointError
from medsam_adapter.hub.convert.base_model import compare_with_base, open_base
from medsam_adapter.hub.convert.checkpoint_file import Checkpoint
from medsam_adapter.hub.convert.names import DECODER, meta_name
from medsam_adapter.hub.convert.official_adapters import CHUNK, MLP_SCALE, OfficialAdapters, read_adapters
from medsam_adapter.hub.convert.official_card import write_official_card
from medsam_adapter.hub.convert.whole_folder import refuse_used, whole_folder
from medsam_adapter.image_size import set_image_size
from medsam_adapter.modeling_msa import MSAModel
from medsam_adapter.processing_msa import MSAProcessor

BASES = {768: "facebook/sam-vit-base", 1024: "facebook/sam-vit-large", 1280: "facebook/sam-vit-huge"}
PIXELS = {
    "unit": ([0.0, 0.0, 0.0], [1.0, 1.0, 1.0]),
    "sam": ([123.675, 116.28, 103.53], [58.395, 57.12, 57.375]),
}
"""What the encoder got: values in [0, 1] as they are, or the same after SAM's normalisation of 0 to 255."""


@dataclass
class OfficialChoices:
    """What the user says of a checkpoint; None finds it out, or takes what is usual.

    Attributes:
        base: the SAM it was trained on; by the adapters' width if None.
        dims: "2d" or "3d".
        slices: D, `-chunk` of a 3-D training; 96 if None.
        image_size: `-image_size` of the training; the base's own if None.
        positions: "all", "windowed" or "none", which blocks had SAM's relative positions.
        clicks: "yx" if the decoder was trained with clicks in this order, as that code does; "xy".
        pixels: a key of `PIXELS`; "unit" if None.
        adapters_only: leave a trained mask decoder out.
    """

    base: str | None = None
    dims: str | None = None
    slices: int | None = None
    image_size: int | None = None
    positions: str | None = None
    clicks: str | None = None
    pixels: str | None = None
    adapters_only: bool = False


def convert_official(checkpoint: Checkpoint, folder: Path, choices: OfficialChoices, name: str = "") -> list[str]:
    """Write adapter_config.json, adapter_model.safetensors, config.json, preprocessor_config.json and README.md.

    Args:
        name: title of the card; the folder's name if empty.

    Returns:
        what was found out and what was taken for granted, a sentence each; the card says it too.

    Raises:
        CheckpointError: a checkpoint that is not whole, of another width, of another base, or that cannot be computed.
    """
    refuse_used(folder)
    adapters = read_adapters(checkpoint, choices.dims)
    base = choices.base or BASES.get(adapters.width)
    if base is None:
        raise CheckpointError(
            "the adapters fit none of Meta's SAMs", file=checkpoint.file,
            expected=f"width {', '.join(map(str, BASES))}, or a --base", found=f"width {adapters.width}",
            hint="name the SAM they were trained on: --base FOLDER",
        )  # fmt: skip
    model = open_base(base)
    _check_fit(adapters, model, base, checkpoint.file)
    found = compare_with_base(checkpoint, model, base, decoder=not choices.adapters_only)
    positions = _positions(found.positions, choices.positions, checkpoint.file, adapters.notes)
    decoder = {} if choices.adapters_only else _trained_decoder(checkpoint, model)
    clicks = choices.clicks or ("yx" if decoder else "xy")
    config = MSAAdapterConfig(
        bottleneck_ratio=adapters.narrow / adapters.width,
        mlp_scale=MLP_SCALE,
        activation="gelu",
        use_decoder=False,
        use_depth=adapters.dims == "3d",
        num_slices=choices.slices or CHUNK,
        train_mask_decoder=bool(decoder),
        compatibility="official",
        relative_positions=positions,
        swap_clicks=clicks == "yx",
    )
    if choices.image_size:
        set_image_size(model, choices.image_size)
    model.add_msa_adapter(config)
    own = get_peft_model_state_dict(model, adapter_name="default", save_embedding_layers=False)
    given = adapters.tensors | decoder
    if set(own) != set(given) or any(own[key].shape != value.shape for key, value in given.items()):
        raise RuntimeError("a converted tensor found no place; please report this file's list of names and shapes")
    given = {key: value.to(own[key].dtype) for key, value in given.items()}
    set_peft_model_state_dict(model, given, adapter_name="default")
    size = model.config.vision_config.image_size
    mean, std = PIXELS[choices.pixels or "unit"]
    notes = adapters.notes + _notes(config, bool(decoder), choices, size, checkpoint)
    with whole_folder(folder) as unfinished:
        model.save_pretrained(unfinished)
        MSAProcessor(image_size=size, image_mean=mean, image_std=std).save_pretrained(unfinished)
        title = name or folder.resolve().name
        write_official_card(unfinished, title, checkpoint.file.name, config, model.base_name or base, notes)
    return notes


def _check_fit(adapters: OfficialAdapters, model: MSAModel, base: str, file: Path) -> None:
    vision = model.config.vision_config
    if (adapters.width, adapters.layers) != (vision.hidden_size, vision.num_hidden_layers):
        raise CheckpointError(
            "the adapters do not fit the base", file=file,
            expected=f"width {vision.hidden_size} in {vision.num_hidden_layers} blocks, as {base} has",
            found=f"width {adapters.width} in {adapters.layers} blocks",
            hint="give the SAM they were trained on: --base"
            + (f" {BASES[adapters.width]}" if adapters.width in BASES else " FOLDER"),
        )  # fmt: skip


def _positions(found: str | None, said: str | None, file: Path, notes: list[str]) -> str:
    if found is not None and said not in (None, found):
        raise CheckpointError(
            "--positions contradicts the file", file=file, expected=f"{found}, which its tables show", found=said,
            hint="leave --positions out",
        )  # fmt: skip
    if found is None and said is None:
        notes.append(
            "Relative positions: taken as SAM has them. Versions of the code had lost them, which the adapters alone "
            "do not show; --positions none (or windowed) is for those."
        )
    elif (found or said) != "all":
        where = "in all blocks" if (found or said) == "none" else "in the blocks of global attention"
        notes.append(f"It was trained without SAM's relative positions {where}; the adapter switches them off there.")
    return found or said or "all"


def _trained_decoder(checkpoint: Checkpoint, model: MSAModel) -> dict[str, Tensor]:
    """The mask decoder by our names if the file has one that differs from the base's."""
    places = {name: value for name, value in model.state_dict().items() if name.startswith(DECODER)}
    found = {name: checkpoint.state.get(meta_name(name)) for name in places}
    given = {name: value for name, value in found.items() if value is not None}
    if len(given) < len(places) or all(
        torch.equal(given[name].float(), value.float()) for name, value in places.items()
    ):
        return {}
    return given


def _notes(
    config: MSAAdapterConfig, has_decoder: bool, choices: OfficialChoices, size: int, checkpoint: Checkpoint
) -> list[str]:
    notes = []
    if config.use_depth:
        chunk = "as --slices says" if choices.slices else "the public code's default; say --slices N if -chunk was N"
        notes.append(f"{config.num_slices} slices are encoded together ({chunk}).")
    if has_decoder:
        notes.append("The mask decoder was trained along and is part of the adapter.")
    else:
        why = "left out" if choices.adapters_only else "not in the file"
        has_one = any(name.startswith(DECODER) for name in checkpoint.state)
        if has_one and not choices.adapters_only:
            notes.append("Its mask decoder is the base's own.")
        else:
            notes.append(
                f"The mask decoder that was trained along is {why}: SAM's own answers, so masks are worse than those "
                "that were published with the adapter."
            )
    notes.append(
        "Clicks reach the prompt encoder as (y, x), as the public code gave them; you give them as (x, y) as always."
        if config.swap_clicks
        else "Clicks reach the prompt encoder as (x, y)."
    )
    notes.append(
        "Pixel values reach the encoder "
        + ("in [0, 1]" if (choices.pixels or "unit") == "unit" else "in [0, 1] after SAM's normalisation of 0 to 255")
        + f", at {size} px"
        + ("" if choices.image_size else ", the base's size (--image-size if the training's was another)")
        + "."
    )
    notes.append("Decoder adapters, text prompts and iterative clicks were never part of that code.")
    return notes
