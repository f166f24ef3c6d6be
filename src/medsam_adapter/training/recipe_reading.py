"""Reading recipes of any kind: YAML and command line words into a dataclass of sections."""

from __future__ import annotations

import dataclasses
import math
import types
import typing
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from medsam_adapter.data.plain_yaml import read_yaml
from medsam_adapter.errors import RecipeError, did_you_mean, near_path


def load_yaml(cls: type, path: str | Path, overrides: Sequence[str] = ()) -> Any:
    """Read a YAML file into a dataclass of sections, and apply command line overrides.

    Args:
        path: a YAML file, or a folder with `recipe.yaml`.
        overrides: `--section.key value` or `--section.key=value`, as they stand on the command line.

    Raises:
        RecipeError: missing file, broken YAML, unknown key or a value of the wrong type.
    """
    file = recipe_file(path)
    values = read_values(file)
    for key, value in _pairs(overrides):
        _set(values, key.split("."), value, key)
    return filled(cls, values, file)


def _pairs(overrides: Sequence[str]) -> list[tuple[str, Any]]:
    pairs, rest = [], list(overrides)
    while rest:
        word = rest.pop(0)
        if not word.startswith("--"):
            raise RecipeError(f"cannot read {word!r}", expected="--section.key value", hint="quote values with spaces")
        key, found, value = word[2:].partition("=")
        if not found:
            if not rest:
                raise RecipeError(f"--{key} has no value", expected=f"--{key} VALUE")
            value = rest.pop(0)
        try:
            pairs.append((key.replace("-", "_"), read_yaml(value)))
        except yaml.YAMLError as error:
            raise RecipeError(
                f"the value of --{key} is not YAML", expected="text, a number or [a, list]", found=value,
                hint=f"put quotes within the quotes: --{key} '\"...\"'",
            ) from error  # fmt: skip
    return pairs


def _set(values: dict, keys: list[str], value: Any, name: str) -> None:
    for key in keys[:-1]:
        values = values.setdefault(key, {})
        if not isinstance(values, dict):
            raise RecipeError(f"--{name} does not name a value", expected="--section.key value")
    values[keys[-1]] = value


def recipe_file(path: str | Path) -> Path:
    """The YAML file itself, or the `recipe.yaml` of a folder."""
    return Path(path) / "recipe.yaml" if Path(path).is_dir() else Path(path)


def read_values(file: Path) -> dict[str, Any]:
    """What a recipe's file holds, of whatever version it is; nobody has looked at keys and values.

    Raises:
        RecipeError: missing file, broken YAML, or YAML that is no table.
    """
    if not file.is_file():
        folder = file.parent if file.name == "recipe.yaml" or file.suffix else file
        raise RecipeError(
            "there is no such recipe", file=file, expected="a YAML file",
            hint=near_path(folder, "recipe.yaml", "hub_configs/ holds examples"),
        )  # fmt: skip
    try:
        values = read_yaml(file.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise RecipeError("the recipe is not YAML", file=file, found=str(error).replace("\n", " ")) from error
    values = {} if values is None else values
    if not isinstance(values, dict):
        raise RecipeError(
            "the recipe is not a table", file=file, expected="section: {key: value}", found=str(values)[:80]
        )
    return values


def filled(cls: type, values: dict[str, Any], file: Path | None = None, where: str = "") -> Any:
    """A dataclass from nested dictionaries; its fields' types say what they take.

    Args:
        where: names of the sections around it, "optim.", for messages.

    Raises:
        RecipeError: unknown key (the nearest right one is named), or a value of the wrong type.
    """
    hints = typing.get_type_hints(cls)
    made = {}
    for key, value in values.items():
        name = f"{where}{key}"
        if key not in hints:
            raise RecipeError(
                f"unknown key {name}",
                file=file,
                expected=", ".join(hints),
                found=str(key),
                hint=did_you_mean(key, hints, "remove it", where),
            )
        made[key] = _convert(value, hints[key], name, file)
    return cls(**made)


def _convert(value: Any, hint: Any, name: str, file) -> Any:
    if isinstance(hint, type) and dataclasses.is_dataclass(hint):
        if not isinstance(value, dict):
            raise RecipeError(f"{name} is a section", file=file, expected="key: value pairs", found=repr(value)[:200])
        return filled(hint, value, file, f"{name}.")
    options = typing.get_args(hint) if isinstance(hint, types.UnionType) else (hint,)
    for option in options:
        kind = typing.get_origin(option) or option
        if value is None and option is type(None):
            return None
        if kind is float and isinstance(value, (int, float, str)) and not isinstance(value, bool):
            try:
                number = float(value)  # YAML reads 1e-3 as text
            except (ValueError, OverflowError):
                continue
            if math.isfinite(number):
                return number
            continue
        if kind is str and isinstance(value, bool):  # YAML reads a bare no as false
            return "yes" if value else "no"
        if kind is list and isinstance(value, list):
            return [_convert(item, each, name, file) for item in value for each in typing.get_args(option)]
        if isinstance(value, kind) and not (kind is int and isinstance(value, bool)) and kind is not type(None):
            return value
    expected = " or ".join(getattr(o, "__name__", str(o)).replace("NoneType", "empty") for o in options)
    raise RecipeError(f"{name} has a value of the wrong type", file=file, expected=expected, found=repr(value)[:200])
