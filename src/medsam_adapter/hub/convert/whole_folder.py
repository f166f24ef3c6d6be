"""A folder that is there whole or not at all."""

from __future__ import annotations

import contextlib
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from medsam_adapter.errors import CheckpointError


def refuse_used(path: Path) -> None:
    """Raises CheckpointError unless `path` is new, or an empty folder."""
    if path.exists() and (not path.is_dir() or any(path.iterdir())):
        raise CheckpointError(
            "is in use already",
            file=path,
            expected="a new name",
            found="a folder with files" if path.is_dir() else "a file",
            hint="give another --output, or remove this one first",
        )


@contextlib.contextmanager
def whole_folder(folder: Path) -> Iterator[Path]:
    """A folder to write into, which takes the place of `folder` when everything inside went well."""
    refuse_used(folder)
    folder.parent.mkdir(parents=True, exist_ok=True)
    unfinished = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    try:
        yield unfinished
        unfinished.chmod(0o755)  # mkdtemp's own is for its owner only
        if folder.exists():
            folder.rmdir()  # an empty one
        unfinished.rename(folder)
    except BaseException:
        shutil.rmtree(unfinished, ignore_errors=True)
        raise
