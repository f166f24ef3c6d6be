"""Reading YAML of strangers: plain values only, and neither deep nor large enough to do harm.

A few lines of YAML can stand for billions of values (aliases of aliases), and the C reader of PyYAML crashes on deep
nesting. Both are counted in the stream of events, before any value is made.
"""

from __future__ import annotations

from typing import Any

import yaml

MAX_CHARACTERS = 4 * 2**20
MAX_DEPTH = 50
MAX_VALUES = 500_000
_Safe: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


def read_yaml(text: str) -> Any:
    """The value of one YAML document; None for an empty one.

    Raises:
        yaml.YAMLError: no YAML, a tag that is not YAML's own, a key that stands twice, an alias within what it names,
            more than 4 MiB, 50 levels or half a million values with aliases written out, or a scalar that is no value
            (a date such as 2024-99-99).
    """
    return _read(text, _Loader)


def read_yaml_as_written(text: str) -> Any:
    """The same with every scalar as the text that stands there, such as "007", "off" and "2024-01-01".

    Raises:
        yaml.YAMLError: as `read_yaml`, but for keys that stand twice, and scalars that are no value.
    """
    return _read(text, getattr(yaml, "CBaseLoader", yaml.BaseLoader))


def _read(text: str, loader: Any) -> Any:
    if len(text) > MAX_CHARACTERS:
        raise yaml.YAMLError(f"{len(text)} characters, and at most {MAX_CHARACTERS} are read")
    try:
        _refuse_bombs(text)
        return yaml.load(text, loader)
    except yaml.YAMLError:
        raise
    except (ValueError, TypeError, OverflowError, LookupError, AttributeError, RecursionError) as error:
        raise yaml.YAMLError(f"{type(error).__name__}: {error}") from error


def _refuse_bombs(text: str) -> None:
    sizes: dict[str, int] = {}  # by anchor: values that it stands for
    open_ones: list[list] = []  # [anchor, values so far] of the collections around
    for event in yaml.parse(text, _Safe):
        if isinstance(event, yaml.CollectionStartEvent):
            open_ones.append([event.anchor, 1])
            if len(open_ones) > MAX_DEPTH:
                raise yaml.YAMLError(f"more than {MAX_DEPTH} levels at line {event.start_mark.line + 1}")
            continue
        if isinstance(event, yaml.CollectionEndEvent):
            anchor, size = open_ones.pop()
        elif isinstance(event, yaml.ScalarEvent):
            anchor, size = event.anchor, 1
        elif isinstance(event, yaml.AliasEvent):
            if any(event.anchor == around for around, _ in open_ones):
                raise yaml.YAMLError(f"*{event.anchor} stands within itself at line {event.start_mark.line + 1}")
            anchor, size = None, sizes.get(event.anchor, 1)
        else:
            continue
        if anchor:
            sizes[anchor] = size
        if open_ones:
            open_ones[-1][1] += size
            size = open_ones[-1][1]
        if size > MAX_VALUES:
            raise yaml.YAMLError(f"more than {MAX_VALUES} values, with aliases written out")


class _Loader(_Safe):
    """PyYAML lets the last of two equal keys win, and what stands under the first would be lost in silence."""

    def construct_mapping(self, node, deep=False):
        seen = set()
        for key, _ in node.value:
            if key.tag == "tag:yaml.org,2002:merge":
                continue
            value = self.construct_object(key, deep=True)
            if isinstance(value, (str, int, float, bool)) or value is None:
                if (type(value), value) in seen:
                    raise yaml.YAMLError(f"{value!r} stands twice in the mapping at line {node.start_mark.line + 1}")
                seen.add((type(value), value))
        return super().construct_mapping(node, deep)
