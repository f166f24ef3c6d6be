"""Intensities to [0, 1]. The scale is said, never guessed: to numpy a CT, an MR and a photograph look alike."""

from __future__ import annotations

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


def check_mode(mode: str | None, window: tuple[float, float] | None) -> None:
    """Raise a `DataError` for a mode that does not exist or a window that is missing or empty."""
    if mode is not None and mode not in MODES:
        raise DataError(f"unknown intensity mode {mode!r}", expected=", ".join(MODES), found=repr(mode))
    if mode == "window" and (window is None or len(window) != 2 or not window[0] < window[1]):
        raise DataError("the intensity window is not usable", expected="window_hu=[low, high]", found=str(window))


def to_unit(array: np.ndarray, mode: str | None, window_hu: tuple[float, float] | None = None) -> np.ndarray:
    """Intensities in [0, 1], float32, same shape.

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
                hint=f"choose one of {', '.join(MODES)}",
            )
        mode = "rgb"
    if array.dtype.kind == "f" and not np.isfinite(array).all():
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
        return array.astype(np.float32) / 255
    if mode == "unit":
        if array.min() < 0 or array.max() > 1:
            raise DataError(
                "intensity mode unit is for values in [0, 1]",
                expected="0 to 1",
                found=f"{array.min()} to {array.max()}",
                hint='use "percentile" or "window"',
            )
        return array.astype(np.float32)
    if mode == "percentile":
        is_channels = array.ndim == 4 and array.dtype != np.uint8  # a colour picture keeps its colours
        low, high = np.percentile(array, PERCENTILES, axis=(0, 1, 2) if is_channels else None)
    else:
        low, high = window_hu if mode == "window" else CT_WINDOWS_HU[mode.removeprefix("ct:")]
    return np.clip((array.astype(np.float32) - low) / np.maximum(high - low, 1e-6), 0, 1).astype(np.float32)
