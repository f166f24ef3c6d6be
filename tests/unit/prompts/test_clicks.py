"""Clicks: inside what they are meant for, (x, y), and where the error is largest."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from medsam_adapter.prompts.clicks import (
    BACKGROUND,
    FOREGROUND,
    PADDING,
    correction_click,
    interior_point,
    largest_component,
    random_point,
)

quick = settings(max_examples=80, deadline=None)
masks = hnp.arrays(bool, hnp.array_shapes(min_dims=2, max_dims=2, min_side=1, max_side=12)).filter(np.any)


@quick
@given(masks, st.integers(0, 99))
def test_points_lie_in_the_mask(mask, seed):
    for x, y in (interior_point(mask), random_point(mask, np.random.default_rng(seed))):
        assert mask[y, x]


@quick
@given(masks)
def test_the_interior_point_has_the_greatest_distance_to_the_edge(mask):
    padded = np.pad(mask, 1)
    ground = np.argwhere(~padded)

    def depth(x, y):
        return np.sqrt(((ground - (y + 1, x + 1)) ** 2).sum(1)).min()

    best = max(depth(x, y) for y, x in np.argwhere(mask))
    assert depth(*interior_point(mask)) == pytest.approx(best)


def test_x_is_the_column():
    mask = np.zeros((5, 9), bool)
    mask[1, 7] = True
    assert interior_point(mask) == (7, 1) == random_point(mask, np.random.default_rng(0))


def test_random_points_reach_every_pixel_evenly():
    mask = np.zeros((4, 6), bool)
    mask[1, 2:5] = mask[3, 0] = True
    rng = np.random.default_rng(0)
    drawn = [random_point(mask, rng) for _ in range(2000)]
    counts = {point: drawn.count(point) for point in set(drawn)}
    assert set(counts) == {(2, 1), (3, 1), (4, 1), (0, 3)} and min(counts.values()) > 400


def test_largest_component():
    mask = np.zeros((6, 8), bool)
    mask[0:2, 0:2] = mask[4:6, 3:8] = True
    mask[2, 2] = True  # only a corner joins it
    want = np.zeros_like(mask)
    want[4:6, 3:8] = True
    np.testing.assert_array_equal(largest_component(mask), want)
    np.testing.assert_array_equal(largest_component(np.zeros((3, 3), bool)), np.zeros((3, 3), bool))
    solid = np.zeros((3, 4, 4), bool)
    solid[0, 0, 0] = solid[1:, 2:, 2:] = True
    assert largest_component(solid).sum() == 8


@quick
@given(hnp.arrays(bool, (7, 9)), hnp.arrays(bool, (7, 9)))
def test_a_correction_lies_in_the_largest_error(prediction, target):
    (x, y), label = correction_click(prediction, target)
    if (prediction == target).all():
        assert label == PADDING
    else:
        assert prediction[y, x] != target[y, x]
        assert label == (FOREGROUND if target[y, x] else BACKGROUND)
        assert largest_component(prediction != target)[y, x]


def test_corrections_say_missed_or_wrongly_included():
    target = np.zeros((12, 12), bool)
    target[2:7, 2:7] = True
    assert correction_click(np.zeros_like(target), target) == ((4, 4), FOREGROUND)
    leak = target.copy()
    leak[9:12, 5:12] = True
    (x, y), label = correction_click(leak, target)
    assert label == BACKGROUND and y == 10 and 6 <= x <= 10


def test_empty_masks_have_no_interior():
    with pytest.raises(ValueError, match="empty"):
        interior_point(np.zeros((3, 3), bool))
