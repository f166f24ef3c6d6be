"""One training at a time in a run folder: of two, the weights of one would lie beside the recipe of the other."""

from __future__ import annotations

import contextlib
import os
import sys
from pathlib import Path
from typing import IO

from tqdm.auto import tqdm

from medsam_adapter.errors import OutputError
from medsam_adapter.file_locks import try_lock
from medsam_adapter.training.checkpoint import refuse_earlier_run
from medsam_adapter.training.processes import gather_list, process_index
from medsam_adapter.writing import naming_write_errors

FILE = ".lock"


class RunLock:
    """The lock of a run folder, within `with`; a process that dies gives it up.

    A folder that is there is locked at once. A new one is made and locked by `take`, when the run is sure to begin.
    Process 0 holds it; the others of a launch leave with its error. All processes enter, and call `take`, together,
    after they have met. In a file system without locks nobody is kept out, and that is said.

    Args:
        replaces: the run goes on with an earlier one, or takes its place; otherwise that one is refused.

    Raises:
        OutputError: another training writes there, or an earlier run would be lost.
    """

    _held: set[Path] = set()  # a process is not kept out by its own locks

    def __init__(self, folder: Path, replaces: bool):
        self.folder, self.replaces = folder, replaces
        self._place = folder.resolve()
        self._file: IO | None = None
        self._has_tried = self._is_removed = False

    def __enter__(self) -> RunLock:
        self._together(self.folder.is_dir())
        return self

    def __exit__(self, *_) -> None:
        if self._file is not None:
            if self._is_removed:  # before it is given up: whoever comes makes a new one
                _remove(self._place / FILE)
            self._file.close()
            self._file = None
            self._held.discard(self._place)

    def take(self) -> None:
        """Make the folder and lock it, unless it is.

        Raises:
            OutputError: as entering, or the folder cannot be made.
        """
        self._is_removed = True  # also what a killed run left; one that is refused leaves all as it is
        self._together(True)

    def _together(self, is_due: bool) -> None:
        refusal: Exception | None = None
        if process_index() == 0:
            try:
                if not self.replaces:
                    refuse_earlier_run(self.folder)
                if is_due and not self._has_tried:
                    self._lock()
                    self._has_tried = True
                    if not self.replaces:
                        refuse_earlier_run(self.folder)  # one that has come and gone in between
            except (OutputError, OSError) as error:
                self.__exit__()
                refusal = error
        refusal = gather_list([refusal])[0]
        if refusal is not None:
            raise refusal

    def _lock(self) -> None:
        with naming_write_errors(self.folder):
            self.folder.mkdir(parents=True, exist_ok=True)
        if self._place in self._held:
            raise self._taken("this process does, a second time")
        path, file = self._place / FILE, None
        self._is_removed |= not path.exists()
        try:
            while True:
                file = path.open("ab")
                if not try_lock(file):
                    file.close()
                    raise self._taken(f"another process holds {self.folder / FILE}")
                if _is_still(path, file):
                    break
                file.close()  # its owner has removed it as it left
        except OSError as error:  # what cannot be written is named when the run is
            if file is not None:
                _remove(path)
                file.close()
            said = f"{self.folder} cannot be locked ({error.strerror}): see to it that nothing else trains there"
            tqdm.write(said, file=sys.stderr)
            return
        self._file = file
        self._held.add(self._place)

    def _taken(self, found: str) -> OutputError:
        return OutputError(
            "another training writes here", file=self.folder, expected="a folder that no other process trains in",
            found=found, hint="wait until it has ended, or take another folder",
        )  # fmt: skip


def _remove(path: Path) -> None:
    with contextlib.suppress(OSError):  # a disk that has become read-only
        path.unlink(missing_ok=True)


def _is_still(path: Path, file: IO) -> bool:
    try:
        return os.path.samestat(os.stat(path), os.fstat(file.fileno()))
    except FileNotFoundError:
        return False
