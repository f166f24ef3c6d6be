"""Who is there: one `Workspace` for each browser page or API client, freed when they leave or fall silent."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from medsam_adapter.demo.workspace import Workspace


class Visitors:
    """Workspaces by session, apart from each other.

    Args:
        make: a new, empty workspace.
        most: how many are kept; a further visitor takes the place of the one who has been silent longest.
        idle_seconds: after so long in silence a workspace is freed.
    """

    def __init__(self, make: Callable[[], Workspace], most: int = 32, idle_seconds: float = 3600):
        self._make, self._most, self._idle_seconds = make, most, idle_seconds
        self._spaces: dict[str, Workspace] = {}
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._spaces)

    def space(self, session: str | None) -> Workspace:
        """The workspace of a session; a new one if it has none."""
        key = session or ""
        with self._lock:
            leaving = [name for name, each in self._spaces.items() if self._is_silent(each)]
            space = self._spaces.get(key)
            if space is None or key in leaving:
                space = self._make()
                others = sorted((each.last_used, name) for name, each in self._spaces.items() if name not in leaving)
                leaving += [name for _, name in others[: max(0, len(others) + 1 - self._most)]]
            space.last_used = time.monotonic()
            gone = [self._spaces.pop(name) for name in dict.fromkeys(leaving)]
            self._spaces[key] = space
        _close_later(gone)
        return space

    def tidy(self) -> None:
        """Free those that have been silent for too long."""
        with self._lock:
            silent = [name for name, each in self._spaces.items() if self._is_silent(each)]
            gone = [self._spaces.pop(name) for name in silent]
        _close_later(gone)

    def _is_silent(self, space: Workspace) -> bool:
        return time.monotonic() - space.last_used > self._idle_seconds and not space.is_working()

    def leave(self, session: str | None) -> None:
        """Free the workspace of a session; one that has none is left alone."""
        with self._lock:
            space = self._spaces.pop(session or "", None)
        _close_later([space] if space else [])

    def close(self) -> None:
        """Free all."""
        with self._lock:
            gone, self._spaces = list(self._spaces.values()), {}
        for space in gone:
            space.close()


def _close_later(spaces: list[Workspace]) -> None:
    """Closing waits for what a workspace is doing; nobody else should."""
    for space in spaces:
        threading.Thread(target=space.close, daemon=True).start()
