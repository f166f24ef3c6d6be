"""Options that were given although nothing would listen to them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from medsam_adapter.prompts.types import ObjectPrompt


def given_options(options: Mapping[str, Any]) -> list[str]:
    """Names of those that were given; 0 is a value like others."""
    return [name for name, value in options.items() if value is not None and value is not False and value != []]


def refuse_unheard(prompts: Iterable[ObjectPrompt], one_slice: bool, min_score: float | None) -> None:
    """Raises PromptError for --one-slice without clicks and boxes, and for --min-score without a text alone."""
    from medsam_adapter.errors import PromptError

    has_place = {bool(prompt.points or prompt.boxes) for prompt in prompts}
    if one_slice and True not in has_place:
        raise PromptError(
            "--one-slice belongs to clicks and boxes", expected="the slices that they lie on", found="texts alone",
            hint="leave it out: what a text names is looked for on all slices",
        )  # fmt: skip
    if min_score is not None and False not in has_place:
        raise PromptError(
            "--min-score belongs to texts alone", expected="a text without clicks and boxes",
            found="clicks or boxes for every object", hint="leave it out",
        )  # fmt: skip
