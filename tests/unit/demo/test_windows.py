"""What the eye sees of the intensities."""

from __future__ import annotations

import numpy as np
import pytest

from medsam_adapter.data.intensity import CT_WINDOWS_HU, PERCENTILES
from medsam_adapter.data.sample import Scan
from medsam_adapter.demo.windows import MODALITIES, PRESETS, likely_modality, range_of, to_bytes, window_of

RNG = np.random.default_rng(0)
CT = Scan(RNG.integers(-1000, 1500, (4, 30, 30)).astype(np.int16), affine=np.eye(4))
MR = Scan(RNG.integers(0, 900, (4, 30, 30)).astype(np.uint16), affine=np.eye(4))
PICTURE = Scan(RNG.integers(3, 200, (1, 30, 30, 3), np.uint8))


@pytest.mark.parametrize(
    ("scan", "kind"),
    [
        (CT, "CT"),
        (MR, "MR or other"),
        (PICTURE, "picture"),
        (Scan(PICTURE.array[..., 0], affine=np.eye(4)), "MR or other"),  # a volume of 8-bit values
        (Scan(np.full((2, 3, 3), -499, np.int16)), "MR or other"),
        (Scan(np.full((2, 3, 3), -501, np.int16)), "CT"),
        (Scan(np.full((1, 3, 3), -501.0)), "CT"),
    ],
)
def test_the_likely_modality_and_why(scan, kind):
    got, reason = likely_modality(scan)
    assert got == kind and got in MODALITIES
    assert reason == "8-bit values" or f"{scan.array.min():g} to {scan.array.max():g}" in reason


def test_every_modality_has_presets_that_every_scan_has():
    assert set(PRESETS) == set(MODALITIES)
    for scan in (CT, MR, PICTURE):
        for name in {name for names in PRESETS.values() for name in names}:
            low, high = window_of(scan, name)
            assert low < high and isinstance(low, float | int)


def test_presets():
    assert window_of(CT, "soft-tissue") == CT_WINDOWS_HU["soft-tissue"]
    assert window_of(MR, "percentile") == pytest.approx(tuple(np.percentile(MR.array, PERCENTILES)))
    assert window_of(MR, "full range") == (MR.array.min(), MR.array.max())
    assert window_of(PICTURE, "full range") == (0.0, 255.0)  # as it is, whatever the darkest pixel
    assert window_of(PICTURE, "percentile") != (0.0, 255.0)


def test_a_scan_of_one_value_has_a_window():
    scan = Scan(np.full((2, 5, 5), 7, np.int16))
    for low, high in (window_of(scan, "percentile"), window_of(scan, "full range"), range_of(scan)):
        assert low == 7 and high > low


def test_range():
    assert range_of(CT) == (CT.array.min(), CT.array.max())


def test_a_large_scan_is_sampled():
    big = Scan(np.tile(np.arange(1000, dtype=np.int16), (5000, 2, 1)))
    low, high = window_of(big, "percentile")
    assert abs(low - np.percentile(big.array, PERCENTILES[0])) < 10 and abs(high - 1000) < 30


def test_bytes():
    values = np.array([[-200, -100, 0, 50, 100, 200]], np.int16)
    np.testing.assert_array_equal(to_bytes(values, (-100, 100)), [[0, 0, 128, 191, 255, 255]])
    assert to_bytes(values, (-100, 100)).dtype == np.uint8
    np.testing.assert_array_equal(to_bytes(PICTURE.array[0], (0.0, 255.0)), PICTURE.array[0])
    np.testing.assert_array_equal(to_bytes(values, (0, 0)), [[0, 0, 0, 255, 255, 255]])  # no division by zero
    np.testing.assert_array_equal(to_bytes(np.array([0, 65535], np.uint16), (0, 65535)), [0, 255])
