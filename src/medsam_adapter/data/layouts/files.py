"""What the layouts share: listing image files and reading JSON."""

from __future__ import annotations

import json
from pathlib import Path

from ...errors import DataError
from ..io import IMAGE_SUFFIXES


def is_listed(path: Path) -> bool:
    """Whether a path is a file, or a link to one that is not there: reading names it, and no case is lost unsaid."""
    return path.is_file() or (path.is_symlink() and not path.exists())


def image_files(folder: Path) -> list[Path]:
    """The image files in a folder by name, hidden ones (macOS' "._" twins) left out; see `is_listed`."""
    return sorted(
        path
        for path in folder.iterdir()
        if is_listed(path) and not path.name.startswith(".") and path.name.lower().endswith(IMAGE_SUFFIXES)
    )


def read_json_object(path: Path) -> dict:
    """Raises DataError if the file is no JSON object."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise DataError(
            "cannot be read as JSON", file=path, expected="a JSON object", found=str(error), hint="mend the file"
        ) from error
    if not isinstance(content, dict):
        raise DataError("is no JSON object", file=path, expected="{...}", found=type(content).__name__)
    return content


def text_of(content: dict, key: str, file: Path) -> str | None:
    """A text of a JSON file, None where there is none. Raises DataError if it is no text."""
    value = content.get(key)
    if value is not None and not isinstance(value, str):
        raise DataError(f'"{key}" is no text', file=file, expected=f'"{key}": "..."', found=repr(value)[:80])
    return value


def some(names: list[str], limit: int = 5) -> str:
    """The first names of a list, and how many more there are."""
    return ", ".join(names[:limit]) + (f" and {len(names) - limit} more" if len(names) > limit else "")
