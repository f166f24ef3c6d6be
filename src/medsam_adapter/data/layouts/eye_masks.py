"""What REFUGE and RIGA share: the optic disc with the cup in it, and masks that code them as grey levels."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from ...errors import DataError
from .files import some

RIM, CUP = 1, 2
LABEL_NAMES = {RIM: "optic disc rim", CUP: "optic cup"}
REGIONS = {"optic disc": (RIM, CUP), "optic cup": (CUP,)}


def labels_from_greys(greys: np.ndarray, meanings: Mapping[int, int], file: Path) -> np.ndarray:
    """Grey levels (D, H, W) as labels 0..2.

    Args:
        meanings: {grey level: label}, background (label 0) among them. It must stand in the corners of each picture:
            the same grey levels mean other things in other releases, and a mix-up would go unnoticed otherwise.

    Raises:
        DataError: another grey level, or corners that are not background.
    """
    table = np.full(256, 255, np.uint8)
    for grey, label in meanings.items():
        table[grey] = label
    is_byte = greys.dtype == np.uint8
    labels = table[greys] if is_byte else table[np.clip(greys, 0, 255).astype(np.uint8)]
    is_strange = (labels == 255) | (False if is_byte else (greys < 0) | (greys > 255))
    names = {0: "background", **LABEL_NAMES}
    form = ", ".join(f"{grey} ({names[label]})" for grey, label in meanings.items())
    if is_strange.any():
        values, counts = np.unique(greys[is_strange], return_counts=True)
        raise DataError(
            "holds grey levels that mean nothing", file=file, expected=form,
            found=some([f"{value} on {count} pixels" for value, count in zip(values, counts, strict=True)]),
            hint="save masks without smoothing (no JPEG, no resizing)",
        )  # fmt: skip
    corners = labels[:, :: labels.shape[1] - 1 or 1, :: labels.shape[2] - 1 or 1]
    if corners.any():
        raise DataError(
            "has no background in its corners", file=file, expected=form,
            found="grey levels "
            + ", ".join(map(str, np.unique(greys[:, :: greys.shape[1] - 1 or 1, :: greys.shape[2] - 1 or 1]))),
            hint="the mask may code disc and cup in another way than this release does",
        )  # fmt: skip
    return labels
