"""What a user would pick in place of a prompted SAM: networks without prompts, one file each.

`BASELINES` names them; nothing heavy is imported before one is asked for. Three systems of the paper's tables have no
code here: `PUBLISHED_ONLY`.
"""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from typing import TYPE_CHECKING

from medsam_adapter.baselines.names import BASELINES
from medsam_adapter.errors import RecipeError, did_you_mean

if TYPE_CHECKING:
    from medsam_adapter.baselines.base import Baseline


@dataclass(frozen=True)
class PublishedSystem:
    """A system that is here by its published figures only.

    Attributes:
        source: the paper that describes it.
        reason: why there is no code.
    """

    source: str
    reason: str


PUBLISHED_ONLY = {
    "BEAL": PublishedSystem(
        "Wang et al. 2019, Boundary and Entropy-driven Adversarial Learning for Fundus Image Segmentation, "
        "https://arxiv.org/abs/1906.11143",
        "adapts from labelled to unlabelled scanners; there is no second domain here",
    ),
    "MTSeg": PublishedSystem(
        "Gong et al. 2021, Multi-Task Learning for Thyroid Nodule Segmentation with Thyroid Region Prior, "
        "https://doi.org/10.1109/ISBI48211.2021.9434087",
        "needs outlines of the thyroid beside those of the nodules",
    ),
    "UltraUNet": PublishedSystem(
        "Chu, Zheng and Zhou 2021, Ultrasonic thyroid nodule detection method based on U-Net network, Computer Methods "
        "and Programs in Biomedicine 199, 105906",
        "made for one task, thyroid nodules in ultrasound",
    ),
}
"""Rows of the paper's tables by the name printed there."""


def get_baseline(name: str, size: str = "published") -> Baseline:
    """The method of that name.

    Raises:
        RecipeError: an unknown name (also one of `PUBLISHED_ONLY`, which cannot be run) or size.
    """
    if name not in BASELINES:
        raise RecipeError(
            f"{name!r} is known by its published figures only"
            if name in PUBLISHED_ONLY
            else f"there is no baseline {name!r}",
            expected=", ".join(BASELINES),
            found=name,
            hint=did_you_mean(name, BASELINES),
        )
    module = importlib.import_module(f"medsam_adapter.baselines.{name}")
    return getattr(module, BASELINES[name])(size)


__all__ = ["BASELINES", "PUBLISHED_ONLY", "PublishedSystem", "get_baseline"]
