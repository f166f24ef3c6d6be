"""Workspaces are apart, limited in number, and freed."""

from __future__ import annotations

import threading
import time

import pytest

from medsam_adapter.demo.visitors import Visitors


class Space:
    """What `Visitors` needs of a workspace."""

    made: list[Space] = []

    def __init__(self):
        self.last_used, self.is_closed, self.may_close = 0.0, threading.Event(), threading.Event()
        self.may_close.set()
        Space.made.append(self)

    def is_working(self) -> bool:
        return not self.may_close.is_set()

    def close(self) -> None:
        self.may_close.wait(10)
        self.is_closed.set()


@pytest.fixture(autouse=True)
def none_made():
    Space.made = []


@pytest.fixture
def clock(monkeypatch):
    """clock[0] is the time."""
    now = [1000.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    return now


def closed(space: Space) -> bool:
    return space.is_closed.wait(5)


def test_each_has_its_own():
    visitors = Visitors(Space)
    first, second = visitors.space("a"), visitors.space("b")
    assert first is not second and visitors.space("a") is first and visitors.space("b") is second and len(visitors) == 2


def test_who_leaves_is_freed_and_comes_back_as_new():
    visitors = Visitors(Space)
    first, other = visitors.space("a"), visitors.space("b")
    visitors.leave("a")
    assert closed(first) and len(visitors) == 1 and not other.is_closed.is_set()
    assert visitors.space("a") is not first
    visitors.leave("nobody")
    visitors.leave(None)
    assert len(visitors) == 2


def test_one_more_takes_the_place_of_the_most_silent(clock):
    visitors = Visitors(Space, most=3)
    spaces = {}
    for name in "abc":
        clock[0] += 1
        spaces[name] = visitors.space(name)
    clock[0] += 1
    visitors.space("a")
    clock[0] += 1
    visitors.space("d")
    assert closed(spaces["b"]) and len(visitors) == 3
    assert not spaces["a"].is_closed.is_set() and not spaces["c"].is_closed.is_set()
    for name in "ac":
        assert visitors.space(name) is spaces[name]


def test_who_is_there_already_pushes_nobody_out(clock):
    visitors = Visitors(Space, most=2)
    spaces = [visitors.space("a"), visitors.space("b")]
    for _ in range(5):
        clock[0] += 1
        assert [visitors.space("a"), visitors.space("b")] == spaces
    assert len(Space.made) == 2


def test_silence_frees(clock):
    visitors = Visitors(Space, idle_seconds=60)
    silent, here = visitors.space("silent"), visitors.space("here")
    clock[0] += 50
    visitors.space("here")
    clock[0] += 20
    assert visitors.space("here") is here
    assert closed(silent) and len(visitors) == 1
    clock[0] += 61
    assert visitors.space("here") is not here and closed(here)


def test_silence_frees_when_nobody_else_comes(clock):
    visitors = Visitors(Space, idle_seconds=60)
    silent, working = visitors.space("silent"), visitors.space("working")
    working.may_close.clear()
    clock[0] += 50
    visitors.tidy()
    assert len(visitors) == 2
    clock[0] += 20
    visitors.tidy()
    assert closed(silent) and len(visitors) == 1 and visitors.space("working") is working


def test_closing_waits_for_nobody_else():
    visitors = Visitors(Space)
    busy = visitors.space("busy")
    busy.may_close.clear()
    visitors.leave("busy")
    began = time.perf_counter()
    visitors.space("other")
    assert time.perf_counter() - began < 2 and not busy.is_closed.is_set()
    busy.may_close.set()
    assert closed(busy)


def test_the_end_frees_all():
    visitors = Visitors(Space)
    for name in "abc":
        visitors.space(name)
    visitors.close()
    assert len(visitors) == 0 and all(space.is_closed.is_set() for space in Space.made)


def test_many_at_once_get_one_each():
    visitors, got = Visitors(Space, most=100), {}
    start = threading.Barrier(16)

    def come(number: int) -> None:
        start.wait()
        got[number] = [visitors.space(f"{number % 8}") for _ in range(50)]

    threads = [threading.Thread(target=come, args=(number,)) for number in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(Space.made) == len(visitors) == 8
    for number in range(8):
        assert len({id(space) for space in got[number] + got[number + 8]}) == 1
