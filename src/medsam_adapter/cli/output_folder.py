"""Whether a folder can be written to, asked before hours of work are lost at its door."""

from __future__ import annotations

import os
from pathlib import Path


def check_folder(folder: Path) -> None:
    """Look at a folder that is to be made or filled; nothing is made yet.

    Raises:
        OutputError: a file stands in its place, or it or the folder that it would be made in is read-only.
    """
    from medsam_adapter.errors import OutputError

    place = folder.absolute()
    there = next(each for each in (place, *place.parents) if each.exists())
    if not there.is_dir() or not os.access(there, os.W_OK):
        raise OutputError(
            "cannot be written", file=there, expected="a folder that you may write to",
            found="a read-only folder" if there.is_dir() else "a file",
            hint="choose another folder, or ask for the right to write there",
        )  # fmt: skip
