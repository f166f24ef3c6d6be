"""SIGINT (Ctrl-C) and SIGTERM (a scheduler's notice) while a run trains: the step is finished, the run saved.

A signal that comes a second time stops at once, as it would without this. The two kinds are counted apart: who presses
Ctrl-C in a terminal may make a parent process send a SIGTERM as well.
"""

from __future__ import annotations

import contextlib
import os
import shlex
import signal
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator

from medsam_adapter.errors import Interrupted

SIGNALS = (signal.SIGINT, signal.SIGTERM)


class StopNow(BaseException):
    """Raised by a signal where nothing is lost by stopping at once; see `Signals.at_once`."""


class Signals:
    """`with Signals() as signals:` takes note of signals, and puts the former handlers back at the end.

    Attributes:
        received: the signal that came first, None before. In a thread other than the main one none is ever noted.

    Args:
        is_loud: say on stderr what a signal does; of several processes one is enough.
        is_alone: one of several processes stops nowhere at once: the others would wait for it.
    """

    def __init__(self, is_loud: bool = True, is_alone: bool = True):
        self.received: int | None = None
        self._is_loud, self._is_alone, self._may_raise = is_loud, is_alone, False
        self._former: dict[int, Any] = {}

    def __enter__(self) -> Signals:
        if threading.current_thread() is threading.main_thread():
            self._former = {number: signal.signal(number, self._note) for number in SIGNALS}
        return self

    def __exit__(self, *_) -> None:
        while self._former:
            signal.signal(*self._former.popitem())

    @contextlib.contextmanager
    def at_once(self) -> Iterator[None]:
        """Within, a signal raises `StopNow`: for a validation, which would take long and changes nothing."""
        self._may_raise = self._is_alone
        try:
            if self._may_raise and self.received is not None:
                raise StopNow
            yield
        finally:
            self._may_raise = False

    def agreed(self, accelerator: Accelerator) -> int:
        """The signal that any process was sent, 0 if none: asked by all together, all stop after the same step."""
        received = self.received or 0
        if accelerator.num_processes == 1:
            return received
        return int(accelerator.gather(torch.tensor([received], device=accelerator.device)).max())

    def _note(self, number: int, frame) -> None:
        former = self._former.pop(number, signal.SIG_DFL)
        signal.signal(number, former if former is not None else signal.SIG_DFL)  # the next one does what it always did
        if self.received is None:
            self.received = number
            if self._is_loud:  # print() may be in the middle of a line
                name = signal.Signals(number).name
                os.write(2, f"\n{name}: saving the run; {name} once more stops at once\n".encode())
        if self._may_raise:
            raise StopNow


TRAIN = "msa train FOLDER --resume"


def interrupted(signal_number: int, folder: Path, place: str, command: str = TRAIN) -> Interrupted:
    """The error of a run that a signal ended, and that is saved.

    Args:
        place: how far it came: "epoch 2, step 7".
        command: that goes on with it; FOLDER stands for the folder.
    """
    return Interrupted(
        f"{signal.Signals(signal_number).name} ended the run after {place}; it is saved", file=folder,
        hint=command.replace("FOLDER", shlex.quote(str(folder))), signal_number=signal_number,
    )  # fmt: skip
