"""The learning rate goes up, then down to zero, and stays there."""

from __future__ import annotations

import pytest

from medsam_adapter.training.schedule import learning_rate_factor


def test_warm_up_then_half_a_cosine():
    assert [learning_rate_factor(step, 100, 0.1) for step in (0, 4, 9, 10)] == pytest.approx([0.1, 0.5, 1, 1])
    assert [learning_rate_factor(step, 100, 0.1) for step in (40, 55, 70, 100)] == pytest.approx([0.75, 0.5, 0.25, 0])


def test_past_its_end_it_stays_zero():
    assert learning_rate_factor(130, 100, 0.1) == pytest.approx(0)


@pytest.mark.parametrize("total", [1, 2])
def test_the_shortest_trainings_learn_something(total):
    assert learning_rate_factor(0, total, 0.0) == 1
