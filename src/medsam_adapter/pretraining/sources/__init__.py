"""Unlabelled images for self-supervised pre-training: folders, known data sets, and streams from the Hub.

A new kind is a file here with a class or function whose arguments are the keys of its recipe entry, and a line in
`KINDS`.
"""

from __future__ import annotations

import inspect
import types
import typing
from collections.abc import Callable
from typing import Any

from medsam_adapter.errors import RecipeError, did_you_mean
from medsam_adapter.pretraining.sources.base import Picture, Source
from medsam_adapter.pretraining.sources.bcn20000 import open_bcn20000
from medsam_adapter.pretraining.sources.eyepacs import open_eyepacs
from medsam_adapter.pretraining.sources.folder import FolderSource
from medsam_adapter.pretraining.sources.ham10000 import open_ham10000
from medsam_adapter.pretraining.sources.mixture import Mixture
from medsam_adapter.pretraining.sources.radimagenet import open_radimagenet
from medsam_adapter.pretraining.sources.streaming import StreamSource

KINDS: dict[str, Callable[..., Any]] = {
    "folder": FolderSource,
    "radimagenet": open_radimagenet,
    "eyepacs": open_eyepacs,
    "bcn20000": open_bcn20000,
    "ham10000": open_ham10000,
    "stream": StreamSource,
}


def open_source(section: dict[str, Any]) -> Source | StreamSource:
    """A source from a recipe entry: `kind`, the arguments of that kind, and `weight`, which is `Mixture`'s.

    Raises:
        RecipeError: unknown kind, unknown or missing key, or a value of the wrong type.
        DataError: what the kind itself raises.
    """
    if not isinstance(section, dict):
        raise RecipeError("a source is a section", expected="kind: folder, path: ...", found=repr(section))
    kind = section.get("kind")
    if not isinstance(kind, str) or kind not in KINDS:
        raise RecipeError(
            "a source is of an unknown kind", expected=", ".join(KINDS), found=f"kind: {kind}",
            hint=did_you_mean(kind, KINDS),
        )  # fmt: skip
    _check("weight", section.get("weight", 1.0), float, kind)
    values = {key: value for key, value in section.items() if key not in ("kind", "weight")}
    make = KINDS[kind]
    parameters = inspect.signature(make).parameters
    hints = typing.get_type_hints(make.__init__ if inspect.isclass(make) else make)
    for key, value in values.items():
        if key not in parameters:
            known = ["kind", "weight", *parameters]
            raise RecipeError(
                f"unknown key {key} of a source of kind {kind}", expected=", ".join(known), found=str(key),
                hint=did_you_mean(key, known),
            )  # fmt: skip
        _check(key, value, hints[key], kind)
    for key, parameter in parameters.items():
        if parameter.default is inspect.Parameter.empty and key not in values:
            raise RecipeError(
                f"a source of kind {kind} needs {key}", expected=f"{key}: ...", found=f"keys {list(section)}"
            )
    return make(**values)


def _check(key: str, value: Any, hint: Any, kind: str) -> None:
    options = typing.get_args(hint) if isinstance(hint, types.UnionType) else (hint,)
    if not any(_fits(value, option) for option in options):
        raise RecipeError(f"{key} of a source of kind {kind} has the wrong type", expected=str(hint), found=repr(value))
    is_count = key in ("max_images", "buffer")
    if value is not None and (key == "weight" or is_count) and not value > 0:
        raise RecipeError(f"{key} of a source of kind {kind} is not above 0", expected="above 0", found=repr(value))


def _fits(value: Any, hint: Any) -> bool:
    if typing.get_origin(hint) is list:
        return isinstance(value, list) and all(_fits(entry, typing.get_args(hint)[0]) for entry in value)
    if hint is float:
        return isinstance(value, (int, float)) and not isinstance(value, bool)
    return isinstance(value, hint) and not (hint is int and isinstance(value, bool))


__all__ = ["KINDS", "Mixture", "Picture", "Source", "StreamSource", "open_source"]
