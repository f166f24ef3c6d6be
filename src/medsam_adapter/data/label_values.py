"""Making label values out of what a mask file holds: colours, grey values, whole numbers saved as fractions."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from ..errors import DataError


def labels_from_colours(array: np.ndarray, colours: dict[tuple[int, int, int], int], path: Path) -> np.ndarray:
    rgb = array if array.ndim == 4 else np.repeat(array[..., None], 3, axis=-1)
    if rgb.dtype != np.uint8:
        raise DataError("is no colour mask", file=path, expected="8-bit RGB", found=str(rgb.dtype))
    packed = _pack(rgb)
    labels = np.zeros(packed.shape, np.min_scalar_type(max(colours.values(), default=0)))
    is_known = packed == 0
    for colour, label in colours.items():
        is_colour = packed == _pack(np.array(colour))
        labels[is_colour] = label
        is_known |= is_colour
    if not is_known.all():
        raise DataError(
            "has colours that no label is given for",
            file=path,
            expected=", ".join(str(colour) for colour in colours) + " and black",
            found=_colour_list(packed[~is_known]),
            hint='name them in labels.json as "r,g,b": "name"; save masks without smoothing (no JPEG, no resizing)',
        )
    return labels


def grey_from_rgb(array: np.ndarray, path: Path) -> np.ndarray:
    if (array[..., 0] == array[..., 1]).all() and (array[..., 0] == array[..., 2]).all():
        return array[..., 0]
    packed = _pack(array)
    raise DataError(
        "codes its labels as colours",
        file=path,
        expected="one channel of label values, or a colour for each label",
        found=_colour_list(packed[packed > 0]),
        hint='give read_label(colours={(r, g, b): label}), or labels.json with "r,g,b": "name"',
    )


def _pack(rgb: np.ndarray) -> np.ndarray:
    rgb = rgb.astype(np.int32)
    return (rgb[..., 0] << 16) | (rgb[..., 1] << 8) | rgb[..., 2]


def _colour_list(packed: np.ndarray, limit: int = 8) -> str:
    values, counts = np.unique(packed, return_counts=True)
    order = np.argsort(-counts)[:limit]
    named = [f"({values[i] >> 16}, {values[i] >> 8 & 255}, {values[i] & 255}) on {counts[i]} pixels" for i in order]
    return ", ".join(named) + (f" and {len(values) - limit} more" if len(values) > limit else "")


def refuse_lossy_values(array: np.ndarray, path: Path) -> None:
    values = np.unique(array)
    if len(values) > 2:
        raise DataError(
            "is a JPEG whose compression has blurred the labels",
            file=path,
            expected="two values, or a threshold that makes them two",
            found=f"{len(values)} values from {values[0]} to {values[-1]}",
            hint="read it with threshold=128, or better save the masks again as PNG",
        )


def as_integers(array: np.ndarray, path: Path) -> np.ndarray:
    if np.issubdtype(array.dtype, np.integer):
        return array
    is_whole = array == np.rint(array)
    if not is_whole.all():
        examples = ", ".join(f"{value:g}" for value in np.unique(array[~is_whole])[:5])
        raise DataError(
            "holds label values that are not whole numbers",
            file=path,
            expected="0 for background and one whole number for each label",
            found=f"{int((~is_whole).sum())} voxels such as {examples}",
            hint="resample label maps with nearest neighbour; give threshold=0.5 if these are probabilities",
        )
    return array.astype(np.promote_types(np.min_scalar_type(int(array.min())), np.min_scalar_type(int(array.max()))))
