"""Prompts of an evaluation lie where they should, in the file frame, and repeat."""

import numpy as np
import pytest

from medsam_adapter.data.geometry import Turn
from medsam_adapter.errors import PromptError
from medsam_adapter.evaluation.protocol import PROTOCOLS, check_protocol, draw_prompt
from medsam_adapter.prompts.boxes import box_iou, tight_box

AFFINE = np.diag([1.0, -2.0, 3.0, 1.0])  # R A S with y flipped: source and file frame differ


@pytest.fixture
def target():
    """(D, H, W) in the file frame: a cone whose largest slice is z = 9."""
    z, y, x = np.mgrid[:12, :30, :40]
    return (np.hypot(y - 12, x - 25) < z * 0.9) & (z < 10)


def draw(target, protocol, per="volume", seed=0):
    turn = Turn.to_codes(AFFINE, target.shape[::-1], "LPS")
    return draw_prompt(turn.array_to_source(target), turn, protocol, per, np.random.default_rng(seed))


@pytest.mark.parametrize("count", [1, 3, 10])
def test_points_lie_in_the_target(target, count):
    prompt = draw(target, f"{count}-point" + "s" * (count > 1))
    assert len(prompt.points) == count and prompt.labels == [1] * count
    assert all(target[int(z), int(y), int(x)] for x, y, z in prompt.points)


def test_one_point_is_on_the_largest_slice_in_its_middle(target):
    assert draw(target, "1-point").points == [(25.0, 12.0, 9.0)]


def test_points_are_spread_over_slices(target):
    assert len({p[2] for p in draw(target, "3-points").points}) == 3


def test_per_slice_prompts_every_slice_that_shows_the_target(target):
    shown = {float(z) for z in np.flatnonzero(target.any((1, 2)))}
    assert {p[2] for p in draw(target, "3-points", "slice").points} == shown
    assert {b[2] for b in draw(target, "box", "slice").boxes} == shown


def corners(box):
    x0, y0, _, x1, y1, _ = box
    return np.array([min(x0, x1), min(y0, y1), max(x0, x1), max(y0, y1)])


def test_the_box_is_tight_and_the_others_have_their_iou(target):
    tight = tight_box(target[9])
    assert np.array_equal(corners(draw(target, "box").boxes[0]), tight)
    for iou in (0.5, 0.75):
        found = [box_iou(corners(draw(target, f"box-{iou}", seed=s).boxes[0]), tight) for s in range(5)]
        assert np.allclose(found, iou, atol=0.02)


def test_the_same_seed_draws_the_same(target):
    assert draw(target, "10-points", seed=3) == draw(target, "10-points", seed=3) != draw(target, "10-points", seed=4)


@pytest.mark.parametrize("name", ["point", "0-points", "2 points", "circle", "box-2", "box-0.0", "box-.00"])
def test_unknown_protocols_are_refused(name):
    with pytest.raises(PromptError, match="1-point"):
        check_protocol(name, "volume")
    for good in (*PROTOCOLS, "box-.5", "box-0.05"):
        check_protocol(good, "slice")
