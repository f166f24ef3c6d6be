"""Curves drawn into a picture: found exactly where nothing is lost, nearly so through JPEG, and never guessed."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image
from scipy import ndimage

from medsam_adapter.data.layouts.drawn_contours import two_curves
from miniatures.sketches import ellipse

SHAPE = (160, 200)
OUTER = ellipse((80, 100), (50, 56), SHAPE)
INNER = ellipse((84, 94), (24, 22), SHAPE)


def ground(seed: int = 0, brightness: int = 120) -> np.ndarray:
    """A smooth coloured picture with a little noise."""
    rng = np.random.default_rng(seed)
    smooth = ndimage.gaussian_filter(rng.normal(0, 300, (*SHAPE, 3)), (12, 12, 0))
    return np.clip(np.array([brightness + 60, brightness, brightness // 2]) + smooth, 0, 255).astype(np.uint8)


def draw(picture: np.ndarray, *regions: np.ndarray, colour=(0, 0, 0), width: int = 1) -> np.ndarray:
    drawn = picture.copy()
    for region in regions:
        drawn[region & ~ndimage.binary_erosion(region, iterations=width)] = colour
    return drawn


def jpeg(picture: np.ndarray, quality: int) -> np.ndarray:
    file = io.BytesIO()
    Image.fromarray(picture).save(file, "JPEG", quality=quality, subsampling=2)
    return np.array(Image.open(file))


def dice(one: np.ndarray, other: np.ndarray) -> float:
    return 2 * (one & other).sum() / (one.sum() + other.sum())


@pytest.mark.parametrize("colour", [(0, 0, 0), (255, 255, 255), (0, 255, 0), (40, 40, 255), (205, 145, 75)])
@pytest.mark.parametrize("width", [1, 3])
def test_without_loss_both_objects_are_exact(colour, width):
    clean = ground()
    outer, inner = two_curves(draw(clean, OUTER, INNER, colour=colour, width=width), clean)
    np.testing.assert_array_equal(outer, OUTER)
    np.testing.assert_array_equal(inner, INNER)


@pytest.mark.parametrize("quality", [95, 75, 50])
@pytest.mark.parametrize("colour", [(0, 0, 0), (255, 255, 255), (0, 255, 0)])
def test_through_jpeg_both_objects_are_nearly_right(colour, quality):
    clean = ground(1)
    found = two_curves(jpeg(draw(clean, OUTER, INNER, colour=colour, width=2), quality), jpeg(clean, quality))
    assert not isinstance(found, str), found
    assert dice(found[0], OUTER) > 0.97 and dice(found[1], INNER) > 0.94


def test_grey_pictures():
    clean = ground()[..., 0]
    outer, inner = two_curves(draw(clean, OUTER, INNER, colour=255), clean)
    assert (outer == OUTER).all() and (inner == INNER).all()


@pytest.mark.parametrize("gap", [1, 4, 9])
def test_gaps_are_closed(gap):
    clean = ground()
    drawn = draw(clean, OUTER, INNER)
    drawn[78 : 78 + gap, 100:] = clean[78 : 78 + gap, 100:]  # through both lines on the right
    outer, inner = two_curves(drawn, clean)
    assert dice(outer, OUTER) > 0.98 and dice(inner, INNER) > 0.97


def test_specks_and_strokes_beside_the_curves_change_nothing():
    clean = ground()
    drawn = draw(clean, OUTER, INNER)
    drawn[5, 5:25] = 0
    drawn[150:156, 180:186] = 255
    drawn[100, 98] = 255
    outer, inner = two_curves(drawn, clean)
    assert (outer == OUTER).all() and (inner == INNER).all()


def test_curves_close_to_one_another_are_kept_apart():
    """Widened far enough to close large gaps, these lines would run into one."""
    inner_truth = ellipse((80, 100), (46, 52), SHAPE)
    clean = ground()
    outer, inner = two_curves(draw(clean, OUTER, inner_truth), clean)
    assert (outer == OUTER).all() and (inner == inner_truth).all()


def test_a_loop_at_the_end_of_an_open_curve_is_not_the_inner_object():
    clean = ground()
    drawn = draw(clean, OUTER, colour=(0, 0, 0))
    drawn = draw(drawn, ellipse((80, 70), (7, 7), SHAPE))
    drawn[77:84, 77:136] = 0  # a thick stroke that begins at the loop
    answer = two_curves(drawn, clean)
    assert isinstance(answer, str) and "not one within the other" in answer


def test_curves_that_reach_the_border():
    outer_truth = ellipse((30, 100), (50, 56), SHAPE)
    inner_truth = ellipse((40, 94), (24, 22), SHAPE)
    clean = ground()
    outer, inner = two_curves(draw(clean, outer_truth, inner_truth), clean)
    assert (outer == outer_truth).all() and (inner == inner_truth).all()


@pytest.mark.parametrize(
    ("regions", "found"),
    [
        ((), "no line"),
        ((OUTER,), "one closed curve"),
        ((ellipse((60, 50), (30, 30), SHAPE), ellipse((90, 150), (30, 30), SHAPE)), "one closed curve"),
        ((ellipse((80, 80), (30, 30), SHAPE), ellipse((80, 120), (30, 30), SHAPE)), "not one within the other (3"),
        ((OUTER, ellipse((80, 57), (14, 14), SHAPE)), "not one within the other"),
        ((OUTER, ellipse((80, 100), (3, 3), SHAPE)), "one closed curve"),
    ],
)
def test_anything_else_is_said_and_not_guessed(regions, found):
    clean = ground()
    answer = two_curves(draw(clean, *regions), clean)
    assert isinstance(answer, str) and found in answer


def test_open_curves():
    clean = ground()
    drawn = draw(clean, OUTER, INNER)
    drawn[:, 90:] = clean[:, 90:]
    assert two_curves(drawn, clean) == "no closed curve"
    drawn = draw(clean, OUTER, INNER)
    drawn[60:110, 60:95] = clean[60:110, 60:95]  # the left half of the inner one
    assert two_curves(drawn, clean) == "one closed curve"


def test_scattered_noise_is_no_line():
    clean = ground()
    drawn = clean.copy()
    drawn[::11, ::13] = 255 - drawn[::11, ::13]
    assert "scattered" in two_curves(drawn, clean)
