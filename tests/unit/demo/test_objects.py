"""Undo and redo: back through every kind of change, to states that are equal, with a limit."""

from __future__ import annotations

import copy

import numpy as np
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from demo_setup import centre_of, write_organ
from medsam_adapter.demo import objects
from medsam_adapter.demo.objects import COLOURS, History, Segmented, Step
from medsam_adapter.errors import PromptError

X, Y, Z = centre_of()


def state(space) -> tuple:
    """All that undo has to bring back."""
    return copy.deepcopy(
        (
            [(each.thing, each.carried.tobytes(), each.mask.tobytes()) for each in space.objects],
            space.active,
            space.choice,
        )
    )


OPERATIONS = {
    "click": lambda space: space.click_voxel((X, Y, Z)),
    "background": lambda space: space.click_voxel((X + 4, Y - 5, Z), 0),
    "click in a plane": lambda space: space.click("sagittal", 20, 3),
    "box": lambda space: space.box_voxels((X - 5, Y - 5, Z, X + 5, Y + 5, Z)),
    "whole volume": lambda space: space.carry_on(),
    "another object": lambda space: space.add_object(),
    "click for it": lambda space: space.click_voxel((3, 3, Z + 1)),
    "another model": lambda space: space.use_model(space.models.choices[-1]),
    "clear": lambda space: space.clear(),
}


def test_back_through_every_operation_and_forth(opened):
    states = [state(opened)]
    for act in OPERATIONS.values():
        act(opened)
        states.append(state(opened))
    assert all(before != after for before, after in zip(states, states[1:], strict=False))
    for want in states[-2::-1]:
        assert opened.undo() and state(opened) == want
    assert not opened.undo() and state(opened) == states[0]
    for want in states[1:]:
        assert opened.redo() and state(opened) == want
    assert not opened.redo() and state(opened) == states[-1]


def test_a_new_change_forgets_what_was_undone(opened):
    OPERATIONS["click"](opened)
    opened.undo()
    OPERATIONS["box"](opened)
    assert not opened.redo()


def test_what_was_refused_is_no_step(opened):
    before = state(opened)
    for act in (
        lambda: opened.click_voxel((500, 0, 0)), lambda: opened.click_voxel((1, 1, Z), 0), opened.carry_on,
        lambda: opened.box_voxels((1, 1, 0, 5, 5, 3)), lambda: opened.say("the liver"), lambda: opened.choose(5),
        lambda: opened.box("coronal", 1, 1, 5, 5),
    ):  # fmt: skip
        with pytest.raises(PromptError):
            act()
        assert state(opened) == before
    assert not opened.undo()


def test_hiding_and_choosing_are_no_steps(opened):
    opened.click_voxel((X, Y, Z))
    opened.add_object()
    opened.objects[0].is_visible = False
    opened.choose(0)
    opened.undo()
    assert len(opened.objects) == 1 and not opened.objects[0].is_visible


def test_undo_gives_copies(opened):
    """What is undone and changed again must not change what redo brings."""
    opened.click_voxel((X, Y, Z))
    want = state(opened)
    opened.undo()
    opened.objects[0].thing.prompt.points.append((0.0, 0.0, 0.0))
    opened.redo()
    assert state(opened) == want


def test_a_new_scan_forgets_the_way_back(opened, tmp_path):
    opened.click_voxel((X, Y, Z))
    opened.open([write_organ(tmp_path / "other.nii.gz", seed=1)])
    assert not opened.undo() and not opened.redo()


def step(number: int, voxels: int = 10) -> Step:
    made = Segmented.empty(1, (1, 1, voxels))
    made.thing.name = str(number)
    return Step([made], 0, "m")


def test_only_so_many_steps():
    history = History()
    for number in range(100):
        history.remember(step(number))
    seen, now = [], step(100)
    while (now := history.undo(now)) is not None:
        seen.append(int(now.objects[0].thing.name))
    assert seen == list(range(99, 59, -1))


def test_only_so_much_memory(monkeypatch):
    monkeypatch.setattr(objects, "_MAX_HISTORY_BYTES", 10_000)
    history = History()
    for number in range(30):
        history.remember(step(number, voxels=3000))
    assert history._bytes() <= 10_000 and len(history._done) == 3
    assert history.undo(step(30)).objects[0].thing.name == "29"
    one = History()
    one.remember(step(0, voxels=50_000))
    assert one.undo(step(1)) is not None  # the last change can always be taken back


def test_masks_that_are_shared_count_once():
    history, made = History(), step(0, 1000)
    for _ in range(5):
        history.remember(Step([made.objects[0].copy()], 0, "m"))
    assert history._bytes() == 1000


def test_empty_objects():
    first, ninth = Segmented.empty(1, (2, 3, 4)), Segmented.empty(9, (2, 3, 4))
    assert first.thing.name == "object 1" and first.thing.colour == COLOURS[0] == ninth.thing.colour
    assert first.mask.shape == (2, 3, 4) and not first.mask.any() and not first.is_asked
    assert len(set(COLOURS)) == len(COLOURS)


def test_copies_have_prompts_of_their_own():
    first = Segmented.empty(1, (2, 3, 4))
    other = first.copy()
    other.thing.prompt.points.append((1.0, 1.0, 1.0))
    assert not first.is_asked and other.is_asked and other.mask is first.mask


class _NoModel:
    """`Workspace`'s history with masks made from the prompts by a rule: cheap enough for many stories."""

    def __new__(cls):
        from types import SimpleNamespace

        from medsam_adapter.demo.workspace import Workspace

        space = Workspace(SimpleNamespace(choices=["a", "b"], names=lambda choice: ()))
        space.scan = SimpleNamespace(shape_zyx=(2, 3, 4))
        space.objects = [Segmented.empty(1, (2, 3, 4))]
        return space


class Stories(RuleBasedStateMachine):
    """Against a list of states and a place in it."""

    def __init__(self):
        super().__init__()
        self.space = _NoModel()
        self.states, self.at = [state(self.space)], 0

    def teardown(self):
        self.space.close()

    def changed(self) -> None:
        self.states[self.at + 1 :] = [state(self.space)]
        self.at += 1

    @rule(x=st.integers(0, 3), label=st.integers(0, 1))
    def click(self, x, label):
        new = self.space.objects[self.space.active].copy()
        new.thing.prompt.points.append((float(x), 0.0, 0.0))
        new.thing.prompt.labels.append(label)
        new.mask = new.mask.copy()
        new.mask[0, 0, x] = label
        self.space._remember()
        self.space.objects[self.space.active] = new
        self.changed()

    @precondition(lambda self: len(self.space.objects) < 4)
    @rule()
    def add(self):
        self.space.add_object()
        self.changed()

    @rule()
    def clear(self):
        self.space.clear()
        self.changed()

    @rule(index=st.integers(0, 3))
    def choose(self, index):
        if index < len(self.space.objects):
            self.space.choose(index)
            # Choosing is no step, but the next step starts from it.
            self.states[self.at] = (self.states[self.at][0], self.space.active, self.states[self.at][2])

    @rule()
    def undo(self):
        assert self.space.undo() == (self.at > 0)
        self.at = max(0, self.at - 1)

    @rule()
    def redo(self):
        assert self.space.redo() == (self.at < len(self.states) - 1)
        self.at = min(len(self.states) - 1, self.at + 1)

    @invariant()
    def is_where_it_should_be(self):
        assert state(self.space) == self.states[self.at]


TestStories = Stories.TestCase
TestStories.settings = settings(max_examples=40, stateful_step_count=25, deadline=None,
                                suppress_health_check=[HealthCheck.too_slow])  # fmt: skip


def test_masks_are_never_changed_in_place(opened):
    """Steps share them."""
    for act in OPERATIONS.values():
        for each in opened.objects:
            each.mask = np.asarray(each.mask)
            each.mask.flags.writeable = each.carried.flags.writeable = False
        act(opened)
