"""What the eye sees of the intensities: presets, and a guess at the kind of scan that is said aloud, never silent."""

from __future__ import annotations

import numpy as np

from medsam_adapter.data.intensity import CT_WINDOWS_HU, PERCENTILES
from medsam_adapter.data.sample import Scan

MODALITIES = ("CT", "MR or other", "picture")
_AIR_HU = -500
_MAX_SAMPLED = 4_000_000
PRESETS = {
    "CT": ("soft-tissue", "lung", "bone", "brain", "liver", "mediastinum", "percentile", "full range"),
    "MR or other": ("percentile", "full range"),
    "picture": ("full range", "percentile"),
}


def likely_modality(scan: Scan) -> tuple[str, str]:
    """The kind of scan that its values suggest, and why; a person may say otherwise.

    CT is in Hounsfield units, where air is -1000: nothing else that is common holds values so far below zero.
    """
    low, high = scan.array.min(), scan.array.max()
    if scan.array.dtype == np.uint8:
        return ("MR or other" if scan.is_volume else "picture"), "8-bit values"
    if low < _AIR_HU:
        return "CT", f"values from {low:g} to {high:g}, as Hounsfield units"
    return "MR or other", f"values from {low:g} to {high:g}"


def window_of(scan: Scan, preset: str) -> tuple[float, float]:
    """(low, high) of a preset in the file's own values."""
    if preset in CT_WINDOWS_HU:
        return CT_WINDOWS_HU[preset]
    if preset == "full range" and scan.array.dtype == np.uint8:
        return 0.0, 255.0
    step = max(1, scan.array.size // _MAX_SAMPLED)
    values = scan.array.reshape(-1)[::step]
    low, high = np.percentile(values, PERCENTILES) if preset == "percentile" else (values.min(), values.max())
    return float(low), max(float(high), float(low) + 1e-3)


def range_of(scan: Scan) -> tuple[float, float]:
    """(lowest, highest) value, the ends of the window's sliders; 0 and 255 of 8-bit values."""
    if scan.array.dtype == np.uint8:
        return 0.0, 255.0
    low, high = float(scan.array.min()), float(scan.array.max())
    return low, max(high, low + 1e-3)


def to_bytes(values: np.ndarray, window: tuple[float, float]) -> np.ndarray:
    """Values of a slice, (H, W) or (H, W, 3), as uint8 through a window."""
    low, high = window
    unit = (values.astype(np.float32) - low) / max(high - low, 1e-6)
    return (np.clip(unit, 0, 1) * 255 + 0.5).astype(np.uint8)


def intensity_of(scan: Scan, window: tuple[float, float]) -> tuple[str, tuple[float, float] | None]:
    """(intensity, window_hu) as in `SessionObject`, with which a model sees what the window shows."""
    is_as_it_is = scan.array.dtype == np.uint8 and window == (0.0, 255.0)
    return ("rgb", None) if is_as_it_is else ("window", window)
