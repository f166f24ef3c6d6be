"""Reading recipes of any kind: YAML and command line words into a dataclass of sections.

Text (a path, a name, a number of a channel) is taken as it is written: YAML alone would make 7 of a folder 007, false
of one called off, and would cut a word of the command line at " #".
"""

from __future__ import annotations

import dataclasses
import datetime
import math
import types
import typing
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from medsam_adapter.data.plain_yaml import read_yaml, read_yaml_as_written
from medsam_adapter.errors import RecipeError, did_you_mean, near_path

EXAMPLES = "hub_configs/ of the project's repository holds examples"


def load_yaml(cls: type, path: str | Path, overrides: Sequence[str] = ()) -> Any:
    """Read a YAML file into a dataclass of sections, and apply command line overrides.

    Args:
        path: a YAML file, or a folder with `recipe.yaml`.
        overrides: `--section.key value` or `--section.key=value`, as they stand on the command line. Values are YAML,
            but text is taken as it stands; `null` and an empty word empty what may be empty.

    Raises:
        RecipeError: missing file, broken YAML, unknown key or a value of the wrong type.
    """
    file = recipe_file(path)
    values = read_values(file)
    written = read_yaml_as_written(file.read_text(encoding="utf-8")) if values else {}
    for name, word in _pairs(overrides):
        keys = name.split(".")
        _set(values, keys, _value(word, _options(cls, keys), name), name)
        _set(written, keys, None, name)
    return filled(cls, values, file, written=written)


def _pairs(overrides: Sequence[str]) -> list[tuple[str, str]]:
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
        pairs.append((key.replace("-", "_"), value))
    return pairs


def _options(cls: type, keys: Sequence[str]) -> tuple[Any, ...]:
    """The types that a value may have; of a key that the dataclasses do not know any."""
    hint: Any = cls
    for key in keys:
        is_section = isinstance(hint, type) and dataclasses.is_dataclass(hint)
        hint = typing.get_type_hints(hint).get(key, Any) if is_section else Any
    return typing.get_args(hint) if isinstance(hint, types.UnionType) else (hint,)


def _value(word: str, options: tuple[Any, ...], name: str) -> Any:
    """A word of the command line as what it stands for."""
    if str in options:
        return None if type(None) in options and word in ("", "null") else word
    try:
        return read_yaml(word)
    except yaml.YAMLError as error:
        raise RecipeError(
            f"the value of --{name} is not YAML", expected="a number, true or false, [a, list] or {a: table}",
            found=word, hint=f"put quotes within the quotes: --{name} '\"...\"'",
        ) from error  # fmt: skip


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
            hint=near_path(folder, "recipe.yaml", EXAMPLES),
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


def filled(cls: type, values: dict[str, Any], file: Path | None = None, where: str = "", written: Any = None) -> Any:
    """A dataclass from nested dictionaries; its fields' types say what they take.

    Args:
        where: names of the sections around it, "optim.", for messages.
        written: the same dictionaries with every value as it is written in the file, where there is one.

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
        made[key] = _convert(value, hints[key], name, file, written.get(key) if isinstance(written, dict) else None)
    return cls(**made)


def _convert(value: Any, hint: Any, name: str, file: Path | None, written: Any) -> Any:
    if isinstance(hint, type) and dataclasses.is_dataclass(hint):
        if not isinstance(value, dict):
            raise RecipeError(f"{name} is a section", file=file, expected="key: value pairs", found=repr(value)[:200])
        return filled(hint, value, file, f"{name}.", written)
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
        if kind is str and isinstance(value, (bool, int, float, datetime.date)):
            if isinstance(written, str):
                return written
            return {True: "yes", False: "no"}[value] if isinstance(value, bool) else str(value)
        if kind is list and isinstance(value, list):
            (each,) = typing.get_args(option)
            words = written if isinstance(written, list) else [None] * len(value)
            return [_convert(item, each, name, file, word) for item, word in zip(value, words, strict=True)]
        if isinstance(value, kind) and not (kind is int and isinstance(value, bool)) and kind is not type(None):
            return value
    expected = " or ".join(getattr(o, "__name__", str(o)).replace("NoneType", "empty") for o in options)
    raise RecipeError(f"{name} has a value of the wrong type", file=file, expected=expected, found=repr(value)[:200])
