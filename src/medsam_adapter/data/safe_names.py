"""Names from data sets, tables and archives that become part of a path: what they must not be."""

from __future__ import annotations

import re
from pathlib import Path, PurePosixPath, PureWindowsPath

from ..errors import DataError

# File systems allow 255 bytes; what is made of a name adds endings such as "_prediction.nii.gz".
MAX_NAME_BYTES = 200
_MAX_PATH_BYTES = 4000
# Windows opens a device under these, whatever suffix follows
# (https://learn.microsoft.com/windows/win32/fileio/naming-a-file).
_DEVICES = {"CON", "PRN", "AUX", "NUL", *(f"{port}{n}" for port in ("COM", "LPT") for n in range(1, 10))}


def is_safe_name(name: object) -> bool:
    """Whether a name can be that of a file in a folder of our choosing, on any system."""
    if not isinstance(name, str) or not name.strip() or name in (".", ".."):
        return False
    if re.search(r"[/\\\x00-\x1f\x7f\ud800-\udfff]", name) or PureWindowsPath(name).drive:
        return False
    return len(name.encode()) <= MAX_NAME_BYTES and name.split(".")[0].strip().upper() not in _DEVICES


def refuse_unsafe_name(name: object, what: str, file: str | Path | None = None) -> None:
    """Raises DataError for a name, such as a case id, that must not become part of a path."""
    if not is_safe_name(name):
        raise DataError(
            f"has a {what} that is no file name",
            file=file,
            expected=f"text of at most {MAX_NAME_BYTES} bytes without / and \\, and none of ., .., CON, NUL, ...",
            found=repr(name)[:120],
            hint="rename it",
        )


def inside(root: Path, name: object, file: str | Path | None = None) -> Path:
    """`root / name` for a relative path that a list gives and that stays below `root`.

    Links in the folder are its owner's business and are followed.

    Raises:
        DataError: no text, an absolute path, one with "..", or one that no file can have.
    """
    if not isinstance(name, str) or not _stays_below(name):
        raise DataError(
            "names a file outside its folder, or none",
            file=file or root,
            expected=f"the path of a file below {root}, relative to it",
            found=repr(name)[:120],
            hint="put the file into the folder and write its path from there",
        )
    return root / name


def _stays_below(name: str) -> bool:
    """Whether a path leads from a folder to a file below it, on any system."""
    if not name.strip() or len(name.encode(errors="replace")) > _MAX_PATH_BYTES:
        return False
    if PurePosixPath(name).is_absolute() or PureWindowsPath(name).anchor or "\0" in name:
        return False
    parts = re.split(r"[/\\]", name)
    return (
        ".." not in parts
        and all(len(part.encode(errors="replace")) <= 255 for part in parts)
        and PurePosixPath(name).name != ""
    )
