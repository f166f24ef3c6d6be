"""What must not leave this machine: paths of its disk, and secrets.

Files of a run are cleaned before they are published (`without_paths`), and everything is looked through once more
(`refuse_private_words`), because a card or a result can quote anything.
"""

from __future__ import annotations

import os
import re
from pathlib import Path, PureWindowsPath
from typing import Any

from huggingface_hub import get_token

from medsam_adapter.errors import CheckpointError

TEXT_SUFFIXES = (".json", ".jsonl", ".yaml", ".yml", ".md", ".csv", ".txt", ".py")
PLACES = ("path", "split", "feature_cache", "output", "bank", "data", "replay")
"""Keys of recipes and results whose text is a place, relative ones too."""

_SECRET = re.compile(r"\bhf_[A-Za-z0-9]{20,}|\bsk-[A-Za-z0-9_-]{20,}|\bgh[pousr]_[A-Za-z0-9]{30,}")
_PATH = re.compile(r"(?<![\w:/.~<-])(?:~?/[\w.@+-]+(?:/[\w.@+ -]*[\w.@+-])+|[A-Za-z]:\\[\w.@+ \\-]+)")


def without_paths(content: Any, key: str = "") -> Any:
    """JSON or YAML content in which a string that is an absolute path, or stands where places do, is a name only."""
    if isinstance(content, dict):
        return {name: without_paths(value, name) for name, value in content.items()}
    if isinstance(content, list):
        return [without_paths(value) for value in content]
    if not isinstance(content, str) or content.startswith("hf://"):
        return content
    return last_part(content) if key in PLACES or _is_absolute(content) else content


def recipe_without_paths(recipe: dict[str, Any], base: str) -> dict[str, Any]:
    """A recipe with names in place of paths; `base` is what it started from, as others find it or by its name."""
    cleaned = without_paths(recipe)
    cleaned["model"]["base"] = base
    return cleaned


def refuse_private_words(folder: Path) -> None:
    """Look through all text below a folder.

    Raises:
        CheckpointError: a secret, or an absolute path.
    """
    secrets = {value for name, value in os.environ.items() if re.search("TOKEN|SECRET|PASSWORD|API_KEY", name)}
    secrets = {value for value in secrets | {get_token() or ""} if len(value) >= 12}
    for file in sorted(folder.rglob("*")):
        if file.suffix not in TEXT_SUFFIXES:
            continue
        for number, line in enumerate(file.read_text(encoding="utf-8", errors="replace").splitlines(), 1):
            has_secret = bool(_SECRET.search(line)) or any(secret in line for secret in secrets)
            path = _PATH.search(line) or (str(Path.home()) in line and len(str(Path.home())) > 1)
            if not (has_secret or path):
                continue
            where = line.strip() if len(line) < 120 else f"{line.strip()[:100]} ..."
            raise CheckpointError(
                f"line {number} holds {'a secret' if has_secret else 'a path of this machine'}, and is not published",
                file=file.relative_to(folder), expected="names, no absolute paths and no tokens",
                found="(not shown)" if has_secret else where,
                hint="take it out of the file in the run folder, or rename what it names",
            )  # fmt: skip


def last_part(path: str) -> str:
    """The name at the end of a path of any system."""
    return PureWindowsPath(path).name or path  # which knows / as well


def _is_absolute(text: str) -> bool:
    one_line = "\n" not in text and len(text) < 1000
    return one_line and bool(Path(text).is_absolute() or PureWindowsPath(text).is_absolute() or text.startswith("~/"))
