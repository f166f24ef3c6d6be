"""A rendered slice, pixel by pixel."""

from __future__ import annotations

import base64
import io

import numpy as np
import pytest
from PIL import Image

from medsam_adapter.demo.rendering import (
    MAX_SIDE,
    Layer,
    data_url,
    hex_colour,
    png_bytes,
    render,
    rgb,
    size_on_screen,
)

GREY = np.full((20, 24), 100, np.uint8)
RED = "#ff0000"


def square(rows=slice(5, 15), columns=slice(6, 18), shape=GREY.shape) -> np.ndarray:
    mask = np.zeros(shape, bool)
    mask[rows, columns] = True
    return mask


def pixels(*layers: Layer, picture=GREY, **settings) -> np.ndarray:
    return np.asarray(render(picture, layers, max_side=max(picture.shape[:2]), **settings))


def test_without_layers_it_is_the_picture():
    noise = np.random.default_rng(0).integers(0, 255, (20, 24), np.uint8)
    np.testing.assert_array_equal(pixels(picture=noise), np.repeat(noise[..., None], 3, -1))
    colour = np.random.default_rng(0).integers(0, 255, (20, 24, 3), np.uint8)
    np.testing.assert_array_equal(pixels(picture=colour), colour)


@pytest.mark.parametrize("opacity", [0.0, 0.35, 1.0])
def test_fill_mixes_the_colour_in(opacity):
    mask = square()
    got = pixels(Layer(mask, RED), style="fill", opacity=opacity)
    want = np.full((*GREY.shape, 3), 100.0)
    want[mask] += opacity * (np.array([255.0, 0, 0]) - 100)
    np.testing.assert_array_equal(got, want.round().astype(np.uint8))


def test_outline_is_the_two_outer_pixels_inside_the_mask():
    mask, inner = square(), square(slice(7, 13), slice(8, 16))
    got = pixels(Layer(mask, RED), style="outline")
    want = np.full((*GREY.shape, 3), 100)
    want[mask & ~inner] = (255, 0, 0)
    np.testing.assert_array_equal(got, want)


def test_an_outline_is_closed_at_the_edge_of_the_picture():
    got = pixels(Layer(np.ones(GREY.shape, bool), RED), style="outline")
    is_red = (got == (255, 0, 0)).all(-1)
    np.testing.assert_array_equal(is_red, ~square(slice(2, -2), slice(2, -2)))


def test_both():
    mask, inner = square(), square(slice(7, 13), slice(8, 16))
    got = pixels(Layer(mask, "#00ff00"), opacity=0.5)
    assert (got[mask & ~inner] == (0, 255, 0)).all() and (got[~mask] == 100).all()
    np.testing.assert_array_equal(got[10, 12], [50, 178, 50])  # 177.5, to even


def test_the_later_object_lies_on_top():
    got = pixels(Layer(square(), RED), Layer(square(slice(8, 20)), "#0000ff"), style="fill", opacity=1.0)
    assert got[6, 10].tolist() == [255, 0, 0] and got[10, 10].tolist() == got[18, 10].tolist() == [0, 0, 255]


def test_a_mask_keeps_its_place_when_it_is_enlarged():
    mask = square(slice(3, 4), slice(7, 9))
    got = np.asarray(render(GREY, [Layer(mask, RED)], opacity=1.0, style="fill", max_side=240))
    assert got.shape == (200, 240, 3)
    is_red = (got == (255, 0, 0)).all(-1)
    np.testing.assert_array_equal(np.argwhere(is_red).min(0), [30, 70])
    np.testing.assert_array_equal(np.argwhere(is_red).max(0), [39, 89])


@pytest.mark.parametrize(
    ("shape_hw", "aspect", "want"),
    [
        ((20, 24), 1.0, (240, 200)),
        ((20, 24), 2.0, (144, 240)),  # pixels twice as high as wide
        ((20, 24), 0.5, (240, 100)),
        ((480, 240), 1.0, (240, 480)),  # larger than the limit: its own size
        ((1, 24), 1.0, (240, 10)),
        ((1, 2000), 0.001, (2000, 1)),
    ],
)
def test_size_on_screen(shape_hw, aspect, want):
    assert size_on_screen(shape_hw, aspect, 240) == want
    assert render(np.zeros(shape_hw, np.uint8), [], aspect, max_side=240).size == want


def test_the_longer_side_is_the_limit():
    assert max(render(GREY, []).size) == MAX_SIDE


@pytest.mark.parametrize("aspect", [1.0, 2.5])
def test_clicks_are_drawn_on_their_pixel(aspect):
    layer = Layer(np.zeros(GREY.shape, bool), RED, [(6, 5), (17, 12)], [1, 0])
    got = np.asarray(render(GREY, [layer], aspect, max_side=480)).astype(int)
    height, width = got.shape[:2]
    for (x, y), colour in (((6, 5), (255, 0, 0)), ((17, 12), (0xD0, 0x34, 0x2C))):
        cx, cy = (x + 0.5) * width / 24, (y + 0.5) * height / 20
        near = got[round(cy) - 4 : round(cy) + 4, round(cx) - 4 : round(cx) + 4].reshape(-1, 3)
        assert (near == colour).all(1).any() and (near == 255).all(1).any(), (x, y)
    changed = np.argwhere((got != 100).any(-1))
    assert len(changed) < 500
    # an object is marked by a cross, background by a bar
    plus, minus = (
        (round(6.5 * width / 24), round(5.5 * height / 20)),
        (round(17.5 * width / 24), round(12.5 * height / 20)),
    )
    assert got[plus[1] - 3, plus[0]].tolist() == [255] * 3 and got[minus[1] - 3, minus[0]].tolist() != [255] * 3


def test_a_box_goes_round_its_first_and_last_pixel():
    layer = Layer(np.zeros(GREY.shape, bool), RED, boxes_xyxy=[(6, 5, 11, 9)])
    got = np.asarray(render(GREY, [layer], max_side=240))
    is_red = (got == (255, 0, 0)).all(-1)
    low, high = np.argwhere(is_red).min(0), np.argwhere(is_red).max(0)
    np.testing.assert_allclose(low, [50, 60], atol=1)
    np.testing.assert_allclose(high, [100, 120], atol=1)
    assert not is_red[70, 90]


def test_prompts_of_other_objects_are_not_drawn():
    layer = Layer(np.zeros(GREY.shape, bool), RED, [(6, 5)], [1], [(1, 1, 9, 9)], is_active=False)
    np.testing.assert_array_equal(pixels(layer), pixels())


def test_nothing_that_is_given_is_changed():
    picture, mask = GREY.copy(), square()
    picture.flags.writeable = mask.flags.writeable = False
    render(picture[::-1], [Layer(mask.T[::-1].T, RED)])


@pytest.mark.parametrize(
    ("colour", "want"),
    [("#22c3e6", (0x22, 0xC3, 0xE6)), ("rgba(10, 20.6, 300, 0.5)", (10, 21, 255)), ("rgb(-3,0,1)", (0, 0, 1))],
)
def test_colours(colour, want):
    assert rgb(colour) == want and hex_colour(colour) == "#{:02x}{:02x}{:02x}".format(*want)


@pytest.mark.parametrize("colour", ["", "red", "rgb(1,2", "rgb(a,b,c)"])
def test_what_is_no_colour(colour):
    with pytest.raises(ValueError):
        hex_colour(colour)


def test_the_address_holds_the_picture_itself():
    shown = render(np.random.default_rng(0).integers(0, 255, (20, 24), np.uint8), [])
    head, _, body = data_url(shown).partition(",")
    assert head == "data:image/png;base64" and base64.b64decode(body) == png_bytes(shown)
    np.testing.assert_array_equal(np.asarray(Image.open(io.BytesIO(png_bytes(shown)))), np.asarray(shown))
