"""Signals are noted once and then do what they always did; what draws at random goes on where it was."""

from __future__ import annotations

import os
import random
import signal
import threading
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from medsam_adapter.errors import MSAError, MSAInputError
from medsam_adapter.training.interruption import Signals, StopNow, interrupted
from medsam_adapter.training.random_state import random_state, set_random_state


@pytest.fixture(autouse=True)
def sigint_of_a_terminal():
    """A shell has programs that it starts in the background ignore SIGINT."""
    former = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, former)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_first_is_noted_and_the_second_does_what_it_did(number, capfd):
    came = []
    former = signal.signal(number, lambda *_: came.append("former"))
    try:
        with Signals() as signals:
            assert signals.received is None
            signal.raise_signal(number)
            assert signals.received == number and not came
            signal.raise_signal(number)
            assert signals.received == number and came == ["former"]
        signal.raise_signal(number)
        assert came == ["former"] * 2
    finally:
        signal.signal(number, former)
    said = capfd.readouterr().err
    assert said.count("saving the run") == 1 and signal.Signals(number).name in said


def test_another_kind_of_signal_is_no_second_one():
    with Signals(is_loud=False) as signals:
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGTERM)  # what a launcher sends after a Ctrl-C
        assert signals.received == signal.SIGINT
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)


def test_handlers_are_put_back_without_a_signal_and_after_an_error():
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    with pytest.raises(ZeroDivisionError), Signals():
        assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] != before
        1 / 0  # noqa: B018
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == before


def test_at_once_stops_at_once_and_only_there():
    with Signals(is_loud=False) as signals:
        with pytest.raises(StopNow), signals.at_once():
            signal.raise_signal(signal.SIGTERM)
            pytest.fail("went on")
        with pytest.raises(StopNow), signals.at_once():
            pytest.fail("began although a signal had come")
    with Signals(is_loud=False) as signals:
        with signals.at_once():
            pass
        signal.raise_signal(signal.SIGTERM)
        assert signals.received == signal.SIGTERM
    with Signals(is_loud=False, is_alone=False) as signals, signals.at_once():  # the other processes would wait
        signal.raise_signal(signal.SIGTERM)
        assert signals.received == signal.SIGTERM


def test_all_processes_agree():
    sent = torch.tensor([0, signal.SIGTERM, 0])
    several = SimpleNamespace(num_processes=3, device="cpu", gather=lambda mine: torch.cat([mine, sent]))
    alone = SimpleNamespace(num_processes=1)
    signals = Signals()
    assert signals.agreed(several) == signal.SIGTERM and signals.agreed(alone) == 0
    signals.received = signal.SIGINT
    assert signals.agreed(alone) == signal.SIGINT


def test_in_another_thread_signals_are_left_alone():
    found = []

    def work():
        with Signals() as signals:
            found.append(signals.received)

    before = signal.getsignal(signal.SIGTERM)
    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert found == [None] and signal.getsignal(signal.SIGTERM) == before


def test_the_error_says_how_to_go_on(tmp_path):
    error = interrupted(signal.SIGTERM, tmp_path / "my run", "epoch 2, step 3 of 4")
    assert error.exit_code == 143 and interrupted(signal.SIGINT, tmp_path, "x").exit_code == 130
    assert "SIGTERM ended the run after epoch 2, step 3 of 4" in str(error)
    assert f"msa train '{tmp_path}/my run' --resume" in error.hint
    assert MSAError("x").exit_code == 1 and MSAInputError("x").exit_code == 2


def test_random_states_go_through_a_file(tmp_path):
    def draw():
        return random.random(), np.random.rand(), np.random.randn(), torch.rand(()).item(), random.gauss(0, 1)

    draw()  # a second normal number is kept for later by both generators
    torch.save(random_state(), tmp_path / "state.pt")
    first = draw()
    assert draw() != first
    set_random_state(torch.load(tmp_path / "state.pt", weights_only=True))
    assert draw() == first
    assert os.listdir(tmp_path) == ["state.pt"]
