"""Reading the YAML files of the text bank into entries; what the entries must be like stands in `text_rules`.

One file for each body region:

    region: abdomen
    data: [BTCV, AMOS 2022]
    targets:
      spleen:
        names: [spleen, splenic organ, 脾脏]
        train: [sentences]
        held_out: [sentences, about a third, for evaluation only]
    unions:
      - targets: [left kidney, right kidney]
        names: [both kidneys]        # may be left out: words for the group as a whole
        train: [sentences]
        held_out: [sentences]

The key of a target is its standard name.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from ..data.plain_yaml import read_yaml
from ..errors import DataError, did_you_mean
from .text_names import plain_name, sentence_key

SHIPPED = Path(__file__).with_name("texts")

FILE_KEYS = ("region", "data", "targets", "unions")
TARGET_KEYS = ("names", "train", "held_out")
UNION_KEYS = ("targets", "names", "train", "held_out")


@dataclass(frozen=True)
class Entry:
    """A target or a union as it stands in one file.

    Attributes:
        owner: one standard name, or the targets of a union.
        names: a target's standard name and synonyms; a union's words for the group.
    """

    owner: tuple[str, ...]
    names: tuple[str, ...]
    train: tuple[str, ...]
    held_out: tuple[str, ...]
    region: str
    data: tuple[str, ...]
    file: Path

    @property
    def title(self) -> str:
        return " + ".join(self.owner)

    @property
    def sentences(self) -> tuple[str, ...]:
        return self.train + self.held_out


def files_of_bank(path: Path | str | None) -> list[Path]:
    """The shipped files, then the file or the .yaml files of the folder `path`.

    Raises:
        DataError: there is no such file, or the folder has none.
    """
    files = sorted(SHIPPED.glob("*.yaml"))
    if path is None:
        return files
    path = Path(path)
    more = sorted([*path.glob("*.yaml"), *path.glob("*.yml")]) if path.is_dir() else [path]
    if not more or not path.exists():
        raise DataError(
            "there are no texts",
            file=path,
            expected="a YAML file, or a folder of .yaml files",
            found="a folder without one" if path.exists() else "no such file or folder",
        )
    return files + [file for file in more if file.resolve() not in {shipped.resolve() for shipped in files}]


def group(entries: Iterable[Entry]) -> list[list[Entry]]:
    """Entries about the same target, or the same set of targets, together."""
    groups: dict[frozenset[str], list[Entry]] = {}
    for entry in entries:
        groups.setdefault(frozenset(plain_name(name) for name in entry.owner), []).append(entry)
    return list(groups.values())


def joined(entries: list[Entry]) -> Entry:
    """Names and sentences of all entries of a group; owner, region and file of the first."""
    names: dict[str, str] = {}
    for entry in entries:
        for name in entry.names:
            names.setdefault(plain_name(name), name)
    return Entry(
        entries[0].owner,
        tuple(names.values()),
        tuple(sentence for entry in entries for sentence in entry.train),
        tuple(sentence for entry in entries for sentence in entry.held_out),
        entries[0].region,
        tuple(dict.fromkeys(data for entry in entries for data in entry.data)),
        entries[0].file,
    )


def read_file(file: Path) -> tuple[list[Entry], list[Entry]]:
    """The targets and the unions of one file.

    Raises:
        DataError: the file is no YAML, lacks a region or targets, or has an unknown key or an entry of another type.
    """
    try:
        content = read_yaml(file.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise DataError(
            "cannot be read as a text bank", file=file, expected="YAML in UTF-8", found=" ".join(str(error).split())
        ) from error
    content = _mapping(content, FILE_KEYS, file, "the file")
    region = content.get("region")
    if not isinstance(region, str) or not region.strip():
        raise DataError(
            "the file has no region", file=file, expected="region: abdomen, for example", found=repr(region)
        )
    if not isinstance(content.get("targets"), dict) or not content["targets"]:
        raise DataError(
            "the file has no targets",
            file=file,
            expected="targets: {name: {names: [...], train: [...], held_out: [...]}}",
            found=repr(content.get("targets")),
        )
    unions = content.get("unions") or []
    if not isinstance(unions, list):
        raise DataError("unions is no list", file=file, expected="- targets: [a, b]", found=type(unions).__name__)
    shared = {"region": plain_name(region), "data": _texts(content, "data", file, "the file"), "file": file}
    return (
        [_target(name, entry, shared) for name, entry in content["targets"].items()],
        [_union(f"union {number}", entry, shared) for number, entry in enumerate(unions, 1)],
    )


def _target(name: Any, entry: Any, shared: dict[str, Any]) -> Entry:
    if not isinstance(name, str) or not name.strip():
        raise DataError("a target has no name", file=shared["file"], expected="a text as key", found=repr(name))
    entry = _mapping(entry, TARGET_KEYS, shared["file"], name)
    parts: dict[str, Any] = {key: _texts(entry, key, shared["file"], name) for key in TARGET_KEYS}
    parts["names"] = (name, *(other for other in parts["names"] if plain_name(other) != plain_name(name)))
    return Entry(owner=(name,), **parts, **shared)


def _union(title: str, entry: Any, shared: dict[str, Any]) -> Entry:
    entry = _mapping(entry, UNION_KEYS, shared["file"], title)
    parts: dict[str, Any] = {key: _texts(entry, key, shared["file"], title) for key in UNION_KEYS}
    owner = tuple(dict.fromkeys(parts.pop("targets")))
    if len(owner) < 2:
        raise DataError(
            f"{title} has too few targets", file=shared["file"], expected="targets: [a, b]", found=", ".join(owner)
        )
    return Entry(owner=owner, **parts, **shared)


def _mapping(content: Any, keys: tuple[str, ...], file: Path, where: str) -> dict[str, Any]:
    if not isinstance(content, dict):
        raise DataError(
            f"{where} has the wrong form", file=file, expected=f"keys {', '.join(keys)}", found=repr(content)[:80]
        )
    for key in content:
        if key not in keys:
            raise DataError(
                f"{where} has an unknown key {key}",
                file=file,
                expected=", ".join(keys),
                found=str(key),
                hint=did_you_mean(key, keys, "remove it"),
            )
    return content


def _texts(content: Mapping[str, Any], key: str, file: Path, where: str) -> tuple[str, ...]:
    texts = content.get(key)
    if texts is None:
        return ()
    if not isinstance(texts, list):
        raise DataError(f"{where}: {key} is no list", file=file, expected=f"{key}: [text, ...]", found=repr(texts)[:80])
    for text in texts:
        if not isinstance(text, str) or not sentence_key(text):
            raise DataError(
                f"{where}: {key} has an entry that is no text",
                file=file,
                expected='text; a sentence with ": " or " #" needs quotes',
                found=repr(text),
            )
    return tuple(" ".join(text.split()) for text in texts)
