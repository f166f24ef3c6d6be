"""Who does what, among processes that share a folder: a claim is a lock that its owner's death releases.

All claims of a folder are locks of single bytes of one file (`file_locks.py`), so that nothing is left behind. Two
claims of one process do not keep each other out.
"""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

from medsam_adapter.errors import DataError
from medsam_adapter.file_locks import has_locks, try_lock, unlock

FILE = ".claims"


class Claims:
    """Claims on names, in one folder; close it at the end.

    Raises:
        DataError: the file system has no locks, or the system has none and there are several processes.
    """

    _open_folders: set[Path] = set()

    def __init__(self, folder: Path):
        self.folder = folder.resolve()
        if self.folder in self._open_folders:
            raise DataError(
                "is being written by this very process",
                file=folder,
                expected="one prediction at a time in a process",
                found="a second one",
                hint="finish the first one, or give each an output folder of its own",
            )
        if not has_locks() and int(os.environ.get("WORLD_SIZE", "1")) > 1:
            raise DataError(
                "work cannot be shared between processes on this system",
                expected="a system with POSIX file locks (Linux, macOS)",
                found=os.name,
                hint="run it in one process",
            )
        self._file = (folder / FILE).open("ab")
        self._open_folders.add(self.folder)

    def take(self, name: str) -> bool:
        """False if another process has it."""
        if not has_locks():
            return True
        try:
            return try_lock(self._file, _place(name))
        except OSError as error:
            raise DataError(
                "is in a file system without locks",
                file=self.folder,
                expected="a folder that all processes can lock files in",
                found=error.strerror or str(error),
                hint="write to another disk; on a cluster file system ask for a mount with flock",
            ) from error

    def give_back(self, name: str) -> None:
        unlock(self._file, _place(name))

    def close(self) -> None:
        """Gives back everything."""
        self._file.close()
        self._open_folders.discard(self.folder)


def _place(name: str) -> int:
    """A byte of the file: of 2^56, so that two of a million names share one with a chance of 1 in 100,000."""
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:7], "big")
