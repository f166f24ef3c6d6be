"""What tells one method's run in a comparison from another, wherever the comparison lies and however paths are spelled.

A run is done again, and its model removed, if its key changes. So the output folder has no part in it, and paths that
are read count by where they lead.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from medsam_adapter.backbones import EMBEDDED, EMBEDDED_TEXT_MODELS

_WRITTEN = (("run", "output"), ("data", "split"))
"""Keys of a recipe whose values lie in the output folder; what the split holds is part of the data's state."""
_READ = (("data", "path"), ("data", "feature_cache"), ("model", "base"), ("text", "model"), ("text", "bank"))


def run_key(
    recipe: Path, overrides: Mapping[str, Any], evaluation: Sequence[str], base: str, prompts: Sequence[str], state: str
) -> str:
    """A hash of all that makes a run and its scores.

    Args:
        recipe: a file with every value of the recipe.
        overrides: {key: value} on top of it.
        evaluation: words of `msa evaluate` behind the model.
        base: what SAM as it is stands for.
        prompts: kinds that it is scored with.
        state: of the data and their split (`data_state`).
    """
    values = yaml.safe_load(recipe.read_text(encoding="utf-8"))
    for section, name in _WRITTEN:
        values.get(section, {}).pop(name, None)
    for section, name in _READ:
        if values.get(section, {}).get(name):
            values[section][name] = _place(values[section][name])
    written = {".".join(key) for key in _WRITTEN}
    changes = sorted((key, value) for key, value in overrides.items() if key not in written)
    words = list(evaluation)
    for number, option in enumerate(evaluation[:-1]):
        if option == "--split":
            words[number + 1] = ""
        if option == "--data":
            words[number + 1] = _place(words[number + 1])
    made_of = json.dumps([values, changes, words, _place(base), list(prompts), state])
    return hashlib.sha256(made_of.encode()).hexdigest()


def _place(name: str) -> str:
    """The whole path of what lies on the disk; names that the library or the Hub knows as they are."""
    is_known = name in EMBEDDED or name in EMBEDDED_TEXT_MODELS
    return str(Path(name).resolve()) if not is_known and Path(name).exists() else name
