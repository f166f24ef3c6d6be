"""Intensities: the scale is said, and what cannot be right is refused."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from medsam_adapter.data.intensity import CT_WINDOWS_HU, MODES, check_mode, to_unit
from medsam_adapter.errors import DataError


@settings(max_examples=60, deadline=None)
@given(
    hnp.arrays(np.int16, (2, 3, 4)),
    st.sampled_from(["percentile", "window", *[m for m in MODES if m.startswith("ct:")]]),
    st.integers(-2000, 2000),
    st.integers(1, 3000),
)
def test_every_scaled_mode_keeps_the_order_and_the_unit_range(array, mode, low, width):
    unit = to_unit(array, mode, (low, low + width))
    assert unit.dtype == np.float32 and unit.shape == array.shape and unit.min() >= 0 and unit.max() <= 1
    order = np.argsort(array.ravel(), kind="stable")
    assert (np.diff(unit.ravel()[order]) >= 0).all()


@pytest.mark.parametrize("name", CT_WINDOWS_HU)
def test_ct_windows_end_where_they_say(name):
    low, high = CT_WINDOWS_HU[name]
    got = to_unit(np.array([low - 500, low, (low + high) / 2, high, high + 500]), f"ct:{name}")
    np.testing.assert_allclose(got, [0, 0, 0.5, 1, 1], atol=1e-6)


def test_a_window_of_ones_own():
    np.testing.assert_allclose(to_unit(np.array([-100, 0, 50, 100], np.int16), "window", (0, 100)), [0, 0, 0.5, 1])


def test_percentiles_are_of_the_whole_scan():
    array = np.stack([np.linspace(0, 1000, 2000), np.linspace(1000, 2000, 2000)])
    array[0, 0], array[1, -1] = -1e6, 1e6  # outliers
    unit = to_unit(array, "percentile")
    assert unit[0, 1000] == pytest.approx(0.25, abs=0.02) and unit[1, 1000] == pytest.approx(0.75, abs=0.02)


@pytest.mark.parametrize("dtype", [np.int16, np.float32])
def test_channels_of_other_scales_are_scaled_each_by_itself(dtype):
    ramp = np.linspace(0, 1000, 2 * 30 * 40).reshape(2, 30, 40)
    array = np.stack([ramp, 5 * ramp + 3000, ramp[::-1], ramp * 0 + 7], axis=-1).astype(dtype)
    unit = to_unit(array, "percentile")
    for channel in range(4):
        np.testing.assert_allclose(unit[..., channel], to_unit(array[..., channel], "percentile"), atol=1e-6)
    assert unit.dtype == np.float32 and unit[..., 1].min() == 0 and unit[..., 0].max() == unit[..., 1].max() == 1


def test_an_eight_bit_picture_keeps_its_colours():
    picture = np.zeros((1, 20, 20, 3), np.uint8)
    picture[..., 0] = np.arange(20) * 10  # red from 0 to 190, green from 0 to 19
    picture[..., 1] = np.arange(20)
    unit = to_unit(picture, "percentile")
    assert unit[..., 0].max() == 1 and unit[..., 1].max() == pytest.approx(0.1, abs=0.01)


def test_a_constant_scan_is_finite():
    assert np.isfinite(to_unit(np.full((2, 3), 7.0), "percentile")).all()


def test_eight_bit_needs_no_mode_and_large_unsigned_values_do_not_wrap():
    np.testing.assert_allclose(to_unit(np.array([0, 51, 255], np.uint8), None), [0, 0.2, 1], atol=1e-6)
    np.testing.assert_allclose(
        to_unit(np.array([0, 40000, 65535], np.uint16), "window", (0, 65535)), [0, 0.610, 1], atol=1e-3
    )
    np.testing.assert_allclose(to_unit(np.array([0, 100], np.uint8), "window", (50, 150)), [0, 0.5])


def test_unit_values_stay():
    np.testing.assert_array_equal(to_unit(np.array([0, 0.25, 1]), "unit"), np.array([0, 0.25, 1], np.float32))


@pytest.mark.parametrize(
    ("array", "mode", "text"),
    [
        (np.zeros(3, np.int16), None, "scale of these intensities is not known"),
        (np.zeros(3, np.float32), None, "scale of these intensities is not known"),
        (np.zeros(3, bool), None, "scale of these intensities is not known"),
        (np.zeros(3, np.int16), "rgb", "8-bit"),
        (np.array([0.0, 1.5]), "unit", r"\[0, 1\]"),
        (np.array([-0.1, 1]), "unit", r"\[0, 1\]"),
        (np.array([0, np.nan]), "percentile", "not numbers"),
        (np.array([0, np.nan]), "unit", "not numbers"),
        (np.array([0, np.inf], np.float16), "ct:liver", "not numbers"),
        (np.zeros(3), "ct:heart", "unknown intensity mode"),
    ],
)
def test_refused(array, mode, text):
    with pytest.raises(DataError, match=text) as caught:
        to_unit(array, mode)
    assert caught.value.expected and caught.value.found


@pytest.mark.parametrize("window", [None, (1,), (1, 2, 3), (5, 5), (5, 4)])
def test_windows_that_are_none(window):
    with pytest.raises(DataError, match="window is not usable"):
        check_mode("window", window)
