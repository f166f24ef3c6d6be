"""What has become of each case of a prediction of many: JSON lines, one file for each process.

    {"case": "p1", "turn": 1, "status": "started", "asked": "9f3c...", "process": "node7:4711", "time": "..."}
    {"case": "p1", "turn": 1, "status": "done", ..., "output": "p1.nii.gz", "voxels": 812, "seconds": 1.3}

A turn is one attempt at a case. `status` is started, then done, failed (with `why`) or interrupted; a turn that only
started is running, or its process died. A line is complete and on the disk before anything goes on; half a line, which
a killed process leaves, is passed over. What counts is the last turn.
"""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import BinaryIO

from medsam_adapter.errors import OutputError
from medsam_adapter.inference.claims import Claims

STARTED, INTERRUPTED, FAILED, DONE = "started", "interrupted", "failed", "done"
_ORDER = (STARTED, INTERRUPTED, FAILED, DONE)
_PATTERN = "manifest-*.jsonl"


@dataclass(frozen=True)
class Record:
    """One line.

    Attributes:
        turn: counts the attempts at a case, from 1.
        asked: hash of what was asked: prompts, model, settings.
        output: file under the output folder; of done cases.
        why: of failed ones.
    """

    case: str
    turn: int
    status: str
    asked: str
    process: str = ""
    time: str = ""
    output: str = ""
    voxels: int = 0
    seconds: float = 0.0
    why: str = ""


class Manifest:
    """The manifests of a folder, and this process's own, which is open for writing.

    Args:
        claims: the first number that no living process has is this one's.
    """

    def __init__(self, folder: Path, claims: Claims):
        self._folder = folder
        self._turns: dict[str, dict[int, Record]] = {}
        self._read_up_to: dict[Path, int] = {}
        number = next(n for n in range(10**5) if claims.take(f"manifest {n}"))
        self.path = folder / f"manifest-{number:05d}.jsonl"
        self._file = _open_for_lines(self.path)
        self.refresh()

    @classmethod
    @contextmanager
    def open(cls, folder: Path) -> Iterator[tuple[Manifest, Claims]]:
        """The manifest of this process in a folder, which is made if need be, with its claims."""
        folder.mkdir(parents=True, exist_ok=True)
        claims = Claims(folder)
        try:
            manifest = cls(folder, claims)
            try:
                yield manifest, claims
            finally:
                manifest._file.close()
        finally:
            claims.close()

    def refresh(self) -> None:
        """Read what all processes have written since."""
        _read(self._folder, self._turns, self._read_up_to)

    def last(self, case_id: str) -> Record | None:
        """The record that counts; None for a case that nobody has begun."""
        turns = self._turns.get(case_id)
        return turns[max(turns)] if turns else None

    def died(self, case_id: str, asked: str) -> int:
        """How many of the last turns ended with the death of their process; call it with the claim on the case."""
        turns, count = self._turns.get(case_id, {}), 0
        for turn in sorted(turns, reverse=True):
            if turns[turn].status != STARTED or turns[turn].asked != asked:
                break
            count += 1
        return count

    def wrote(self, case_id: str, output: str) -> bool:
        """Whether a turn at this case, whatever was asked, has written this file."""
        turns = self._turns.get(case_id, {}).values()
        return any(record.status == DONE and record.output == output for record in turns)

    def write(self, record: Record) -> None:
        """Append a record, with process and time.

        Raises:
            OutputError: it cannot be written.
        """
        line = asdict(record) | {
            "process": f"{socket.gethostname()}:{os.getpid()}",
            "time": datetime.now(UTC).isoformat(timespec="milliseconds"),
        }
        kept = ("voxels", "seconds") if record.status == DONE else ()
        text = json.dumps({key: value for key, value in line.items() if value or key in kept})
        try:
            self._file.write(text.encode() + b"\n")
            self._file.flush()
            os.fsync(self._file.fileno())
        except OSError as error:
            raise OutputError(
                "cannot be written", file=self.path, found=error.strerror or str(error),
                hint="make room, and run the same command again: it goes on",
            ) from error  # fmt: skip
        _enter(self._turns, record)


def read_manifests(folder: str | Path) -> dict[str, Record]:
    """{case id: the record that counts} of a prediction of many, running or ended."""
    turns: dict[str, dict[int, Record]] = {}
    _read(Path(folder), turns, {})
    return {case_id: each[max(each)] for case_id, each in turns.items()}


def _open_for_lines(path: Path) -> BinaryIO:
    file = path.open("ab+")
    if file.tell():
        file.seek(-1, os.SEEK_END)
        if file.read(1) != b"\n":  # a process was killed in the middle of a line
            file.write(b"\n")
            file.flush()
    return file


def _read(folder: Path, turns: dict[str, dict[int, Record]], read_up_to: dict[Path, int]) -> None:
    for path in sorted(folder.glob(_PATTERN)):
        with path.open("rb") as file:
            file.seek(read_up_to.get(path, 0))
            content = file.read()
        whole = content.rfind(b"\n") + 1
        read_up_to[path] = read_up_to.get(path, 0) + whole
        for line in content[:whole].splitlines():
            try:
                record = Record(**json.loads(line))
                usable = record.status in _ORDER and isinstance(record.turn, int) and isinstance(record.case, str)
            except (ValueError, TypeError):  # half a line
                continue
            if usable:
                _enter(turns, record)


def _enter(turns: dict[str, dict[int, Record]], record: Record) -> None:
    of_case = turns.setdefault(record.case, {})
    known = of_case.get(record.turn)
    if known is None or _ORDER.index(known.status) <= _ORDER.index(record.status):
        of_case[record.turn] = record
