"""Boxes: by first and last pixel, in the picture, with the overlap asked for."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from medsam_adapter.prompts.boxes import box_iou, box_with_iou, jittered_box, tight_box

quick = settings(max_examples=80, deadline=None)
masks = hnp.arrays(bool, hnp.array_shapes(min_dims=2, max_dims=2, min_side=1, max_side=15)).filter(np.any)


@quick
@given(masks)
def test_the_tight_box_holds_all_and_touches_on_each_side(mask):
    x0, y0, x1, y1 = tight_box(mask).astype(int)
    assert mask.sum() == mask[y0 : y1 + 1, x0 : x1 + 1].sum()
    assert mask[y0].any() and mask[y1].any() and mask[:, x0].any() and mask[:, x1].any()


def test_x_is_the_column_and_a_pixel_is_a_box():
    mask = np.zeros((5, 9), bool)
    mask[1, 7] = True
    assert tight_box(mask).tolist() == [7, 1, 7, 1]
    mask[3, 2] = True
    assert tight_box(mask).tolist() == [2, 1, 7, 3]


@quick
@given(masks, st.integers(0, 999))
def test_jittered_boxes_stay_in_the_picture_in_order(mask, seed):
    x0, y0, x1, y1 = jittered_box(mask, np.random.default_rng(seed), amount=0.5)
    assert 0 <= x0 <= x1 <= mask.shape[1] - 1 and 0 <= y0 <= y1 <= mask.shape[0] - 1


def test_jitter_is_relative_and_limited():
    mask = np.zeros((1000, 1000), bool)
    mask[300:700, 450:550] = True  # 400 high, 100 wide
    rng = np.random.default_rng(0)
    moves = np.array([jittered_box(mask, rng) - tight_box(mask) for _ in range(500)])
    assert np.abs(moves).max() <= 20
    assert 8 < moves[:, 0].std() < 12 < moves[:, 1].std()


def test_iou_counts_pixels():
    a, b = np.array([0.0, 0, 3, 3]), np.array([2.0, 2, 5, 5])
    assert box_iou(a, b) == pytest.approx(4 / 28) == box_iou(b, a)
    assert box_iou(a, a) == 1 and box_iou(a, np.array([4.0, 0, 6, 3])) == 0


@quick
@given(st.integers(20, 60), st.integers(20, 60), st.sampled_from([0.5, 0.75]), st.integers(0, 9999))
def test_boxes_have_the_iou_asked_for(width, height, iou, seed):
    box = np.array([80, 90, 80 + width, 90 + height], np.float32)
    made = box_with_iou(box, iou, (256, 240), np.random.default_rng(seed))
    assert box_iou(box, made) == pytest.approx(iou, abs=0.01)
    assert 0 <= made[0] <= made[2] <= 239 and 0 <= made[1] <= made[3] <= 255


def test_boxes_differ_in_direction():
    box = np.array([80, 90, 120, 130], np.float32)
    made = [box_with_iou(box, 0.5, (256, 256), np.random.default_rng(s)) for s in range(40)]
    areas = [np.prod(b[2:] - b[:2] + 1) for b in made]
    assert min(areas) < 41 * 41 < max(areas)


def test_a_target_as_large_as_the_picture_ends():
    made = box_with_iou(np.array([0, 0, 31, 31], np.float32), 0.5, (32, 32), np.random.default_rng(0))
    assert 0 <= made.min() and made.max() <= 31


def test_empty():
    with pytest.raises(ValueError, match="empty"):
        tight_box(np.zeros((3, 3), bool))
