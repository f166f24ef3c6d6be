"""Simulated prompts of any mask: clicks on what they are meant for, boxes in the picture, in the model's frame too."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from medsam_adapter.prompts.boxes import box_iou, box_with_iou, jittered_box, tight_box
from medsam_adapter.prompts.clicks import BACKGROUND, FOREGROUND, PADDING, correction_click
from medsam_adapter.prompts.simulate import PromptSet, correct, opening_prompts

quick = settings(max_examples=60, deadline=None)
sides = hnp.array_shapes(min_dims=2, max_dims=2, min_side=2, max_side=14)
several = st.integers(1, 3).flatmap(lambda n: sides.flatmap(lambda hw: hnp.arrays(bool, (n, *hw))))
seeds = st.integers(0, 2**31)
strides = st.sampled_from([1, 2, 4])
CLICKED = ("click", "clicks", "box_and_click")


def pixels_of(points_xy: np.ndarray, stride: int) -> np.ndarray:
    """Of points in the model's frame: the pixels (x, y) of the mask that they lie on."""
    return np.floor((points_xy + 0.5) / stride).astype(int)


@quick
@pytest.mark.parametrize("kind", CLICKED)
@given(several, strides, seeds)
def test_opening_clicks_lie_in_their_targets(kind, targets, stride, seed):
    prompts = opening_prompts(targets, stride, np.random.default_rng(seed), kind)
    for target, points, labels in zip(targets, prompts.points, prompts.labels, strict=True):
        real = labels != PADDING
        assert real.any() and set(labels[real]) == {FOREGROUND if target.any() else BACKGROUND}
        for x, y in pixels_of(points[real], stride):
            assert target[y, x] == target.any()


@quick
@pytest.mark.parametrize("kind", ["box", "box_75", "box_50", "box_and_click"])
@given(several, strides, seeds)
def test_opening_boxes_lie_in_the_picture_and_meet_their_target(kind, targets, stride, seed):
    prompts = opening_prompts(targets, stride, np.random.default_rng(seed), kind)
    height, width = targets.shape[1:]
    for target, (x0, y0, x1, y1) in zip(targets, (prompts.boxes + 0.5) / stride - 0.5, strict=True):
        if target.any():
            assert 0 <= x0 <= x1 <= width - 1 + 1e-3 and 0 <= y0 <= y1 <= height - 1 + 1e-3
            left, top, right, bottom = tight_box(target)
            # A pixel reaches half a pixel to each side.
            assert x0 < right + 1 and x1 > left - 1 and y0 < bottom + 1 and y1 > top - 1


@quick
@given(several, seeds, st.floats(0.3, 0.95))
def test_boxes_with_an_overlap_never_overlap_less_than_asked(targets, seed, iou):
    rng = np.random.default_rng(seed)
    for target in targets:
        if target.any():
            tight = tight_box(target)
            assert box_iou(tight, box_with_iou(tight, iou, target.shape, rng)) >= iou - 1e-3
            assert box_iou(tight, tight) == 1
            still = jittered_box(target, rng, amount=0.0)
            np.testing.assert_array_equal(still, tight)


@quick
@given(sides.flatmap(lambda hw: st.tuples(hnp.arrays(bool, hw), hnp.arrays(bool, hw))))
def test_corrections_lie_where_the_prediction_is_wrong(pair):
    shown, target = pair
    (x, y), label = correction_click(shown, target)
    if (shown == target).all():
        assert label == PADDING
    else:
        assert shown[y, x] != target[y, x]
        assert label == (FOREGROUND if target[y, x] else BACKGROUND)


@quick
@given(several, strides, seeds)
def test_a_correction_adds_one_click_and_leaves_the_others(targets, stride, seed):
    rng = np.random.default_rng(seed)
    logits = rng.normal(0, 5, targets.shape).astype(np.float32)
    before = PromptSet(np.zeros((len(targets), 1, 2), np.float32), np.ones((len(targets), 1), int))
    after = correct(before, logits, targets, stride, rng)
    assert after.points.shape == (len(targets), 2, 2)
    np.testing.assert_array_equal(after.points[:, :1], before.points)
    for target, shown, point, label in zip(targets, logits > 0, after.points[:, 1], after.labels[:, 1], strict=True):
        if label != PADDING:
            x, y = pixels_of(point, stride)
            assert shown[y, x] != target[y, x] and label == target[y, x]
