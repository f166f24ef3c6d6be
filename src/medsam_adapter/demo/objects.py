"""The objects of a visitor, and the way back through what was done to them."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from medsam_adapter.inference.session import SessionObject

COLOURS = ("#22c3e6", "#f2a900", "#e05fb1", "#5bbf4a", "#8f7bff", "#ff7a45", "#b8c400", "#4f8fe8")
_MAX_STEPS = 40
_MAX_HISTORY_BYTES = 384 * 2**20


@dataclass
class Segmented:
    """An object with its masks, (D, H, W) bool in the file frame: `carried` and, with later corrections, `mask`."""

    thing: SessionObject
    carried: np.ndarray
    mask: np.ndarray
    is_visible: bool = True

    @classmethod
    def empty(cls, number: int, shape_zyx: Sequence[int]) -> Segmented:
        nothing = np.zeros(shape_zyx, bool)
        return cls(SessionObject(f"object {number}", COLOURS[(number - 1) % len(COLOURS)]), nothing, nothing)

    def copy(self) -> Segmented:
        """Prompts of its own; masks are never changed in place, so they may be shared."""
        return Segmented(copy.deepcopy(self.thing), self.carried, self.mask, self.is_visible)

    def looks_as(self, other: Segmented) -> Segmented:
        """The same with another's name, colour and visibility, which are no steps: undo does not bring them back."""
        self.thing.name, self.thing.colour, self.is_visible = other.thing.name, other.thing.colour, other.is_visible
        return self

    @property
    def is_asked(self) -> bool:
        return self.thing.is_asked


@dataclass
class Step:
    """What undo brings back: the objects, the one that prompts go to, and the model that answered."""

    objects: list[Segmented]
    active: int
    choice: str


class History:
    """Steps that were done, and those that were taken back; the oldest are forgotten when they take too much memory."""

    def __init__(self):
        self._done: list[Step] = []
        self._undone: list[Step] = []

    def remember(self, step: Step) -> None:
        """What there was before a change."""
        self._done.append(step)
        self._undone.clear()
        self._done[:] = self._done[-_MAX_STEPS:]
        while len(self._done) > 1 and self._bytes() > _MAX_HISTORY_BYTES:
            self._done.pop(0)

    def undo(self, now: Step) -> Step | None:
        """The step before; None if there is none."""
        return self._exchange(self._done, self._undone, now)

    def redo(self, now: Step) -> Step | None:
        """The step that was taken back last; None if there is none."""
        return self._exchange(self._undone, self._done, now)

    def forget(self) -> None:
        self._done.clear()
        self._undone.clear()

    @staticmethod
    def _exchange(source: list[Step], target: list[Step], now: Step) -> Step | None:
        if not source:
            return None
        target.append(now)
        return source.pop()

    def _bytes(self) -> int:
        arrays = {id(a): a.nbytes for step in self._done for each in step.objects for a in (each.mask, each.carried)}
        return sum(arrays.values())
