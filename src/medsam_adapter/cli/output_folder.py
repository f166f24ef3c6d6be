"""Whether a folder can be written to, asked before hours of work are lost at its door."""

from __future__ import annotations

import tempfile
from pathlib import Path

from medsam_adapter.errors import OutputError
from medsam_adapter.writing import naming_write_errors


def check_folder(folder: Path) -> None:
    """Try to write where a folder is or will be made; nothing is left there.

    Raises:
        OutputError: a file stands in its place, or it or the folder that it would be made in cannot be written to.
    """
    place = folder.absolute()
    there = next(each for each in (place, *place.parents) if each.exists())
    if not there.is_dir():
        raise OutputError(
            "cannot be written", file=there, expected="a folder that you may write to", found="a file",
            hint="choose another folder",
        )  # fmt: skip
    with naming_write_errors(there), tempfile.TemporaryFile(dir=there):
        pass
