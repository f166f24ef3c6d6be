"""Pixels where they belong: masks, outlines, clicks, boxes, aspect."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from medsam_adapter.errors import MSAInputError
from medsam_adapter.evaluation.overlays import (
    BOX_RGB,
    NEGATIVE_RGB,
    POSITIVE_RGB,
    REFERENCE_RGB,
    draw_overlay,
    with_title,
)
from medsam_adapter.evaluation.sheets import OverlayItem, contact_sheet, write_best_median_worst

GREY = np.full((40, 40), 100, np.uint8)


def mask(rows, columns, shape=(40, 40)):
    made = np.zeros(shape, bool)
    made[rows, columns] = True
    return made


def is_near(pixel, rgb, tolerance=25):
    return np.abs(np.asarray(pixel, int) - rgb).max() <= tolerance


def test_nothing_to_draw_leaves_the_image():
    picture = np.asarray(draw_overlay(GREY, np.zeros((40, 40), bool), scale_to=80))
    assert picture.shape == (80, 80, 3) and (picture == 100).all()


def test_prediction_fills_its_own_pixels_only():
    picture = np.asarray(draw_overlay(GREY, mask(slice(10, 20), slice(5, 30)), scale_to=400)).astype(int)
    inside, outside = picture[150, 180], picture[300, 180]
    assert inside[0] > inside[2] + 20 and (outside == 100).all()
    coloured = np.argwhere((picture != 100).any(-1))
    # Interpolated masks have their edge on the pixels' borders, so within half a pixel (5 px here) of the true ones.
    assert np.abs(coloured.min(0) - (100, 50)).max() <= 5 and np.abs(coloured.max(0) - (199, 299)).max() <= 5


def test_reference_is_an_outline_on_top():
    square = mask(slice(10, 30), slice(10, 30))
    picture = np.asarray(draw_overlay(GREY, square, square, scale_to=400))
    assert is_near(picture[200, 100], REFERENCE_RGB, 40)
    assert not is_near(picture[200, 200], REFERENCE_RGB, 60)
    only_reference = np.asarray(draw_overlay(GREY, reference=square, scale_to=400))
    assert (only_reference[200, 200] == 100).all()


def test_clicks_lie_on_their_pixels():
    points, labels = np.array([[10, 30], [30, 5], [20, 20]]), np.array([1, 0, -1])
    picture = np.asarray(draw_overlay(GREY, points_xy=points, labels=labels, scale_to=400))
    assert is_near(picture[305, 105], POSITIVE_RGB)  # (x, y) = (10, 30): row 30, column 10, in the pixel's middle
    assert is_near(picture[55, 305], NEGATIVE_RGB)
    assert (picture[205, 205] == 100).all()  # padding


def test_boxes_are_outlined():
    picture = np.asarray(draw_overlay(GREY, boxes_xyxy=np.array([10, 20, 29, 36]), scale_to=400))
    assert is_near(picture[250, 101], BOX_RGB) and (picture[250, 200] == 100).all() and (picture[250, 50] == 100).all()
    # Its last pixel is 29 by 36: it lies inside, and the next one outside.
    assert is_near(picture[250, 299], BOX_RGB) and is_near(picture[369, 200], BOX_RGB)
    assert (picture[250, 303] == 100).all() and (picture[373, 200] == 100).all()


@pytest.mark.parametrize(
    ("shape", "spacing", "size_wh"), [((40, 40), (2, 1), (50, 100)), ((20, 40), (3, 1), (67, 100))]
)
def test_pixels_have_their_true_shape(shape, spacing, size_wh):
    assert draw_overlay(np.zeros(shape, np.uint8), scale_to=100, pixel_spacing=spacing).size == size_wh


def test_large_pictures_shrink_and_small_targets_stay_visible():
    image = np.full((1000, 1500, 3), 100, np.uint8)
    speck = mask(slice(500, 502), slice(700, 702), (1000, 1500))
    picture = draw_overlay(image, speck, scale_to=150)
    assert picture.size == (150, 100) and (np.asarray(picture) != 100).any()


def test_other_dtypes_are_stretched_and_constant_ones_survive():
    ramp = np.linspace(-1000, 400, 1600).reshape(40, 40)
    picture = np.asarray(draw_overlay(ramp, scale_to=40))
    assert picture.min() < 10 and picture.max() > 245
    draw_overlay(np.full((8, 8), np.nan, np.float32), scale_to=16)


def test_a_title_is_shortened_to_fit():
    plain = draw_overlay(GREY, scale_to=120)
    short, long = with_title(plain, "a title"), with_title(plain, "a title " * 40)
    assert long.width == 120 and long.height > 120 and np.array_equal(np.asarray(long)[-120:], np.asarray(plain))
    strip = np.asarray(long)[:-120]
    assert (strip != np.asarray(short)[:-120]).any() and (strip[:, -3:] == strip[0, 0]).all()


@pytest.mark.parametrize(
    "arguments",
    [
        {"image": np.zeros((4, 4, 2), np.uint8)},
        {"image": np.zeros((0, 4), np.uint8)},
        {"image": GREY, "prediction": np.zeros((39, 40), bool)},
        {"image": GREY, "points_xy": np.zeros((2, 2)), "labels": np.ones(3)},
        {"image": GREY, "pixel_spacing": (0, 1)},
    ],
)
def test_what_does_not_fit_is_refused(arguments):
    with pytest.raises(MSAInputError):
        draw_overlay(**arguments)


def test_contact_sheet_places_panels_in_reading_order():
    panels = [np.full((10, 20), value, np.uint8) for value in (50, 100, 150)]
    sheet = np.asarray(contact_sheet(panels, 2, gap=4))
    assert sheet.shape == (2 * 14 + 4, 2 * 24 + 4, 3)
    assert [sheet[9, 14, 0], sheet[9, 38, 0], sheet[23, 14, 0]] == [50, 100, 150]
    assert contact_sheet(panels, 5, ["a", "b", "c"]).width == 3 * 28 + 8
    with pytest.raises(MSAInputError):
        contact_sheet([], 2)
    with pytest.raises(MSAInputError):
        contact_sheet(panels, 2, ["a"])


def test_best_median_worst(tmp_path):
    target = mask(slice(10, 30), slice(10, 30))
    items = [
        OverlayItem("best", GREY, target, target, np.array([[20, 20]])),
        OverlayItem("worst", np.zeros((20, 40, 3), np.uint8), np.zeros((20, 40), bool), pixel_spacing=(2, 1)),
    ]
    with Image.open(write_best_median_worst(tmp_path / "sheet.png", items, scale_to=100)) as sheet:
        assert sheet.width > 300 and sheet.height > 200
    with pytest.raises(MSAInputError):
        write_best_median_worst(tmp_path / "none.png", [])


@pytest.mark.parametrize("rgb", [(100, 100, 100), (205, 110, 45), (240, 120, 60), (170, 60, 50), (60, 90, 160)])
def test_a_prediction_can_be_told_from_what_lies_under_it(rgb):
    """A fundus photograph is about as red as the colour that predictions have on everything else."""
    image = np.full((40, 40, 3), rgb, np.uint8)
    picture = np.asarray(draw_overlay(image, mask(slice(10, 30), slice(10, 30)), scale_to=200)).astype(int)
    outline = picture[100, 50]
    assert np.abs(outline - rgb).max() > 90, outline
