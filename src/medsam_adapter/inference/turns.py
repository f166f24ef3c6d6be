"""Who computes on a model: one thread at a time, and callers before backgrounds.

Adapters are switched by names in the model's own layers, so whoever has switched it must be alone with it: all
predictors of a model, in whatever threads, take their turns at the same place.
"""

from __future__ import annotations

import contextlib
import threading
import weakref
from collections.abc import Iterator

from torch import nn


class Turns:
    """The turns of one model; see `turns_of`.

    `lock` is held while the model computes, or while it is switched to other adapters for a moment.
    """

    def __init__(self) -> None:
        self.lock = threading.RLock()
        self._counting = threading.Lock()
        self._in_front = 0

    @property
    def background_rests(self) -> bool:
        """Whether somebody waits for an answer; a background looks again once it has the lock."""
        return self._in_front > 0

    @contextlib.contextmanager
    def in_front(self) -> Iterator[None]:
        """Inside, all backgrounds of the model rest; the chunk at hand is waited for.

        Two computations at once share a CPU's cores so badly that both take many times as long.
        """
        with self._counting:
            self._in_front += 1
        try:
            with self.lock:
                pass
            yield
        finally:
            with self._counting:
                self._in_front -= 1


_turns: weakref.WeakKeyDictionary[nn.Module, Turns] = weakref.WeakKeyDictionary()
_making = threading.Lock()


def turns_of(model: nn.Module) -> Turns:
    """The one `Turns` of a model, which is not part of it: copies and files of the model hold none."""
    with _making:
        return _turns.setdefault(model, Turns())
