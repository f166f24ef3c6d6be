"""The methods that `msa compare` knows, and what each changes in a recipe."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from medsam_adapter.baselines.names import BASELINES
from medsam_adapter.errors import RecipeError, did_you_mean

ZERO_SHOT, PROMPTED, UNPROMPTED = "SAM as it is", "prompted", "without prompts"
ONE_POINT = ("1-point",)


@dataclass(frozen=True)
class Contestant:
    """One method.

    Attributes:
        title: in the table.
        group: ZERO_SHOT, PROMPTED or UNPROMPTED.
        what: what is trained, in words.
        prompts: kinds of prompts that it is scored with, a row each.
        overrides: {key of the recipe: value} by which it differs from the recipe.
    """

    title: str
    group: str
    what: str
    prompts: tuple[str, ...] = ONE_POINT
    overrides: dict[str, Any] = field(default_factory=dict)


def _network(name: str, title: str, what: str) -> Contestant:
    return Contestant(title, UNPROMPTED, what, overrides={"model.method": name})


CONTESTANTS = {
    "sam": Contestant("SAM", ZERO_SHOT, "nothing", ("1-point", "3-points", "10-points", "box")),
    "medsam": Contestant(
        "MedSAM-style", PROMPTED, "image encoder and mask decoder",
        # the learning rate of its paper, https://arxiv.org/abs/2304.12306: adapters bear a higher one
        overrides={"model.method": "full", "optim.learning_rate": 1e-4},
    ),
    "decoder": Contestant("Decoder only", PROMPTED, "mask decoder", overrides={"model.method": "decoder"}),
    "lora": Contestant("LoRA", PROMPTED, "PEFT's LoRA, rank 8", overrides={"model.method": "lora"}),
    "msa-official": Contestant(
        "MSA, official code's form", PROMPTED, "encoder adapters, r = 0.25, no depth",
        overrides={"model.method": "msa", "model.adapter": {"bottleneck_ratio": 0.25, "use_decoder": False}},
    ),
    "msa-2d": Contestant(
        "MSA 2-D", PROMPTED, "adapters of the recipe, no depth branch",
        overrides={"model.method": "msa", "model.adapter.use_depth": False},
    ),
    "msa": Contestant("MSA", PROMPTED, "adapters of the recipe", overrides={"model.method": "msa"}),
    "nnunet": _network("nnunet", "nnU-Net", "its network and plan"),
    "unetr": _network("unetr", "UNETR", "all"),
    "swin_unetr": _network("swin_unetr", "Swin-UNETR", "all"),
    "resunet": _network("resunet", "ResUNet", "all"),
    "mednext": _network("mednext", "MedNeXt", "all"),
    "transunet": _network("transunet", "TransUNet", "all"),
    "transbts": _network("transbts", "TransBTS", "all"),
    "segdiff": _network("segdiff", "SegDiff", "all"),
    "ensdiff": _network("ensdiff", "EnsDiff", "all"),
    "medsegdiff": _network("medsegdiff", "MedSegDiff", "all"),
}  # fmt: skip
assert set(BASELINES) <= set(CONTESTANTS)


def chosen(names: str) -> list[str]:
    """The names in a list such as "sam,msa,nnunet", or all of them.

    Raises:
        RecipeError: an unknown name.
    """
    found = list(dict.fromkeys(name.strip().lower() for name in names.split(",") if name.strip()))
    if found in ([], ["all"]):
        return list(CONTESTANTS)
    for name in found:
        if name not in CONTESTANTS:
            raise RecipeError(
                f"there is no method {name!r} to compare with", expected=", ".join(CONTESTANTS), found=name,
                hint=did_you_mean(name, CONTESTANTS, "msa compare --list names them"),
            )  # fmt: skip
    return found
