"""An MSA adapter of the compatibility mode -> a checkpoint that the authors' public code loads.

That code has one form of adapter: GELU, a quarter of the width, factor 0.5, in every block of the encoder. An adapter
of another form would not load, or compute something else; it is refused. Weights for which the code has no place are
listed, and left out only if the user says so.
"""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import torch
from peft.utils import get_peft_model_state_dict
from torch import Tensor

from medsam_adapter.adapters.config import MSAAdapterConfig
from medsam_adapter.adapters.files import read_adapter_config
from medsam_adapter.backbones import resolve_base
from medsam_adapter.errors import CheckpointError
from medsam_adapter.hub.convert.base_model import open_base
from medsam_adapter.hub.convert.names import DECODER, meta_name
from medsam_adapter.hub.convert.official_adapters import MLP_SCALE, OUR_LAYER, OUR_NAME, adapter_key
from medsam_adapter.hub.convert.whole_folder import refuse_used
from medsam_adapter.modeling_msa import MSAModel

RATIO = 0.25


def convert_to_official(run: str, file: Path, *, drop_unknown: bool = False, adapters_only: bool = False) -> list[str]:
    """Write a .pth file, or nothing.

    Args:
        run: folder or Hub repo of an adapter.
        drop_unknown: leave out what the public code has no place for.
        adapters_only: the encoder's adapters alone, as the Medical-Adapter-Zoo has them; else the dictionary of a
            training run, SAM included, which that code loads strictly.

    Returns:
        what was left out and how to load the file, a sentence each.

    Raises:
        CheckpointError: no adapter, or one that the public code cannot compute.
    """
    refuse_used(file)
    if file.is_dir():
        raise CheckpointError("is a folder", file=file, expected="the name of a .pth file", found="an empty folder")
    try:
        config = read_adapter_config(resolve_base(run))
    except ValueError as error:  # PEFT's own for a folder without adapter_config.json, a CheckpointError for others
        raise CheckpointError(
            "is no adapter of this library", file=run, expected="a run folder or a Hub repo of an MSA adapter",
            found=getattr(error, "found", "no adapter_config.json"),
            hint="only MSA adapters have a form that the public code knows",
        ) from error  # fmt: skip
    model = MSAModel.from_pretrained(run)
    _check_form(config, model, run)
    tensors = get_peft_model_state_dict(model, adapter_name="default", save_embedding_layers=False)
    state = _adapters(tensors, model.config.vision_config.num_hidden_layers, config.use_depth)
    decoder = {k: v for k, v in tensors.items() if k.startswith(DECODER) and "msa_adapter_" not in k}
    unknown = sorted(
        {key.rsplit(".", 2)[0] for key in tensors if "msa_adapter_" in key and not key.startswith("vision_encoder.")}
    )
    if unknown and not drop_unknown:
        raise CheckpointError(
            "has weights for which the public code has no place", file=run, expected="encoder adapters only",
            found=", ".join(unknown), hint="--drop-unknown leaves them out; the masks will then be others",
        )  # fmt: skip
    notes = [f"Left out: {name}." for name in unknown]
    if adapters_only:
        content: dict = state
        if decoder:
            notes.append("Left out: the trained mask decoder (--adapters-only).")
    else:
        base = open_base(resolve_base(config.base_model_name_or_path))
        sam = {meta_name(name): value for name, value in base.state_dict().items()}
        sam |= {meta_name(name): value for name, value in decoder.items()}
        content = _training_dictionary(_with_positions(sam, config, model, base) | state)
    flags = f" -thd True -chunk {config.num_slices}" if config.use_depth else ""
    notes.append(f"Load it with -net sam -mod sam_adpt -image_size {model.config.vision_config.image_size}{flags}.")
    if config.relative_positions != "all":
        notes.append("It needs the version of that code that it was trained with (without relative positions).")
    file.parent.mkdir(parents=True, exist_ok=True)
    handle, unfinished = tempfile.mkstemp(prefix=f".{file.name}-", dir=file.parent)
    os.close(handle)
    try:
        torch.save(content, unfinished)
        os.chmod(unfinished, 0o644)
        os.replace(unfinished, file)
    except BaseException:
        Path(unfinished).unlink(missing_ok=True)
        raise
    return notes


def _check_form(config: MSAAdapterConfig, model: MSAModel, run: str) -> None:
    if not isinstance(config, MSAAdapterConfig):
        raise CheckpointError(
            "is no MSA adapter", file=run, expected="peft_type MSA_ADAPTER", found=str(config.peft_type),
            hint="only MSA adapters have a form that the public code knows",
        )  # fmt: skip
    vision = model.config.vision_config
    ratio = f"bottleneck_ratio {RATIO}"
    narrow = max(1, round(config.bottleneck_ratio * vision.hidden_size))
    is_whole = config.use_encoder and config.encoder_layers in (None, list(range(vision.num_hidden_layers)))
    reasons = [
        text
        for is_so, text in (
            (config.compatibility != "official", "another encoder block (compatibility official is needed)"),
            (config.activation != "gelu", f"activation {config.activation} (gelu)"),
            (config.mlp_scale != MLP_SCALE, f"mlp_scale {config.mlp_scale:g} ({MLP_SCALE})"),
            (narrow != int(RATIO * vision.hidden_size), f"bottleneck_ratio {config.bottleneck_ratio:g} ({ratio})"),
            (not is_whole, "adapters in some encoder blocks only (all)"),
        )
        if is_so
    ]
    if reasons:
        raise CheckpointError(
            "the public code cannot compute this adapter", file=run,
            expected="an adapter that was converted from that code, or trained in its form",
            found="; ".join(reasons),
            hint="train with --model.adapter.compatibility official --model.adapter.activation gelu "
            f"--model.adapter.bottleneck_ratio {RATIO} --model.adapter.use_decoder false",
        )  # fmt: skip


def _adapters(tensors: dict[str, Tensor], layers: int, has_depth: bool) -> dict[str, Tensor]:
    state = {}
    for number in range(layers):
        for kind, ours in OUR_NAME.items():
            for projection, part_of in OUR_LAYER.items():
                for part in ("weight", "bias"):
                    is_unused = ours == "depth" and not has_depth
                    at = f"vision_encoder.layers.{number}.msa_adapter_{'mlp' if is_unused else ours}"
                    value = tensors[f"{at}.{part_of}.{part}"].detach().clone()
                    if is_unused:  # that code makes one in any case
                        value.zero_()
                    state[adapter_key(number, kind, projection, part)] = value
    return state


def _with_positions(
    sam: dict[str, Tensor], config: MSAAdapterConfig, model: MSAModel, base: MSAModel
) -> dict[str, Tensor]:
    """SAM's tensors as the version of the code had them that the adapter was trained with."""
    if config.relative_positions == "all":
        return sam
    vision = model.config.vision_config
    grid = vision.image_size // vision.patch_size
    result = {}
    for name, value in sam.items():
        if ".attn.rel_pos_" in name:
            is_global = int(name.split(".")[2]) in base.config.vision_config.global_attn_indexes
            if config.relative_positions == "none" or is_global:
                value = torch.zeros(2 * grid - 1 if is_global else len(value), value.shape[1])
            if config.relative_positions == "none":
                name = name.replace("rel_pos_", "rel_")
        result[name] = value
    return result


def _training_dictionary(state: dict[str, Tensor]) -> dict:
    """What train.py and val.py of that code read: they want these keys, and no optimizer."""
    places = dict.fromkeys(("prefix", "ckpt_path", "log_path", "sample_path"), ".")
    plain = {name: value.detach().clone() for name, value in state.items()}
    return {"epoch": 0, "model": "sam", "state_dict": plain, "optimizer": {}, "best_tol": 0.0, "path_helper": places}
