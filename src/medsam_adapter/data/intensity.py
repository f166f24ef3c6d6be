"""Intensities to [0, 1]. The scale is said, never guessed: to numpy a CT, an MR and a photograph look alike."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from medsam_adapter.errors import DataError

CT_WINDOWS_HU = {
    "soft-tissue": (-160.0, 240.0),
    "liver": (-55.0, 155.0),
    "mediastinum": (-125.0, 275.0),
    "lung": (-1350.0, 150.0),
    "bone": (-450.0, 1050.0),
    "brain": (0.0, 80.0),
}
MODES = ("rgb", "unit", "percentile", "window", *(f"ct:{name}" for name in CT_WINDOWS_HU))
PERCENTILES = (0.5, 99.5)
_CHUNK_VALUES = 1 << 22
_MAX_BINS = 1 << 20


@dataclass(frozen=True)
class UnitScale:
    """How the values of one scan become [0, 1]: found once over the whole scan, applied to any part of it.

    Attributes:
        low, high: values that become 0 and 1, float or (C,), one for each channel; None for data that only have to be
            divided by `divisor`.
        divisor: 255 for 8-bit pictures, 1 for data in [0, 1].
    """

    low: float | np.ndarray | None = None
    high: float | np.ndarray | None = None
    divisor: int = 1

    def __call__(self, part: np.ndarray) -> np.ndarray:
        """float32, same shape."""
        if self.low is None or self.high is None:
            return part.astype(np.float32) / self.divisor
        span = np.maximum(self.high - self.low, 1e-6)
        return np.clip((part.astype(np.float32) - self.low) / span, 0, 1).astype(np.float32)


def check_mode(mode: str | None, window: Sequence[float] | None) -> None:
    """Raise a `DataError` for a mode that does not exist, or a window that is missing, empty or not of two numbers."""
    if mode is not None and mode not in MODES:
        raise DataError(f"unknown intensity mode {mode!r}", expected=", ".join(MODES), found=repr(mode))
    if (mode == "window" or window is not None) and not _is_window(window):
        raise DataError("the intensity window is not usable", expected="window_hu=[low, high]", found=str(window))


def _is_window(window: Sequence[float] | None) -> bool:
    try:
        low, high = window or ()
        return bool(np.isfinite([low, high]).all() and low < high)
    except (TypeError, ValueError):
        return False


def to_unit(array: np.ndarray, mode: str | None, window_hu: Sequence[float] | None = None) -> np.ndarray:
    """Intensities in [0, 1], float32, same shape; arguments and errors as `unit_scale`."""
    return unit_scale(array, mode, window_hu)(array)


def unit_scale(array: np.ndarray, mode: str | None, window_hu: Sequence[float] | None = None) -> UnitScale:
    """How intensities become [0, 1]; nothing of the size of `array` is allocated for integers.

    Args:
        array: any dtype, (D, H, W), (D, H, W, 3) or (D, H, W, C).
        mode: "rgb" (8 bit as they are), "unit" (already in [0, 1]), "percentile" (0.5 to 99.5 of the whole scan;
            of each channel by itself where data are not 8 bit, for MRI sequences have scales of their own), "window"
            (`window_hu`), "ct:soft-tissue", ...; None is allowed only for 8-bit data, whose scale is known.

    Raises:
        DataError: if the mode is missing or does not fit the data, or the data hold NaN or infinity.
    """
    check_mode(mode, window_hu)
    if mode is None:
        if array.dtype != np.uint8:
            raise DataError(
                "the scale of these intensities is not known",
                expected="an intensity mode for data that are not 8 bit",
                found=f"{array.dtype} from {array.min()} to {array.max()}",
                hint=f"say it with --intensity (training: --data.intensity): one of {', '.join(MODES)}",
            )
        mode = "rgb"
    if array.dtype.kind == "f" and not all(np.isfinite(part).all() for part in _chunks(array)):
        raise DataError(
            "the scan holds values that are not numbers",
            expected="finite intensities",
            found=f"{int((~np.isfinite(array)).sum())} NaN or infinite",
            hint="replace them, e.g. by the lowest value",
        )
    if mode == "rgb":
        if array.dtype != np.uint8:
            raise DataError(
                "intensity mode rgb is for 8-bit pictures",
                expected="uint8",
                found=str(array.dtype),
                hint='use "percentile", "window" or a ct: window',
            )
        return UnitScale(divisor=255)
    if mode == "unit":
        if array.min() < 0 or array.max() > 1:
            raise DataError(
                "intensity mode unit is for values in [0, 1]",
                expected="0 to 1",
                found=f"{array.min()} to {array.max()}",
                hint='use "percentile" or "window"',
            )
        return UnitScale()
    if mode == "percentile":
        is_channels = array.ndim == 4 and array.dtype != np.uint8  # a colour picture keeps its colours
        return UnitScale(*(_channel_percentiles(array) if is_channels else _percentiles(array)))
    window = window_hu if mode == "window" else CT_WINDOWS_HU[mode.removeprefix("ct:")]
    assert window is not None  # `check_mode` has seen to it
    return UnitScale(window[0], window[1])


def _channel_percentiles(array: np.ndarray) -> np.ndarray:
    """(2, C)."""
    return np.stack([_percentiles(array[..., channel]) for channel in range(array.shape[-1])], axis=1)


def _percentiles(array: np.ndarray) -> np.ndarray:
    """What `np.percentile(array, PERCENTILES)` gives, to the last bit; of integers by counting, for it sorts a copy."""
    if array.dtype.kind not in "iu" or not array.size:
        return np.percentile(array, PERCENTILES)
    lowest, highest = int(array.min()), int(array.max())
    if highest - lowest >= _MAX_BINS:
        return np.percentile(array, PERCENTILES)
    counts = np.zeros(highest - lowest + 1, np.int64)
    for part in _chunks(array):
        if part.dtype == np.uint64:
            steps = (part - np.uint64(lowest)).astype(np.int64)
        else:
            steps = part.astype(np.int64) - lowest
        counts += np.bincount(steps.ravel(), minlength=len(counts))
    # The percentile lies between two values of the sorted list, numpy's default (linear).
    place = (array.size - 1) * np.true_divide(PERCENTILES, 100)
    before = np.floor(place).astype(np.int64)
    both = np.stack([before, np.minimum(before + 1, array.size - 1)])
    a, b = (np.searchsorted(np.cumsum(counts), both, side="right") + lowest).astype(np.float64)
    share = place - before
    return np.where(share < 0.5, a + (b - a) * share, b - (b - a) * (1 - share))


def _chunks(array: np.ndarray):
    """Parts along the first axis, of some million values each."""
    rows = max(1, _CHUNK_VALUES * len(array) // max(array.size, 1)) if array.ndim else 1
    return (array[first : first + rows] for first in range(0, len(array), rows)) if array.ndim else iter([array])
