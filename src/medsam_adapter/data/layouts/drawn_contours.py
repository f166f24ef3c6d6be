"""Two closed curves drawn into a picture, one within the other, found by comparing it with the clean picture.

What differs are the lines, and, where both pictures are JPEG, noise around them. Pixels that differ clearly are taken;
gaps are closed step by step until what is enclosed is a region with a hole in it: the region between the two curves.
All within the outer curve, its line included, is the outer object; all within the inner curve, its line included, the
inner one.
"""

from __future__ import annotations

import numpy as np
from scipy import ndimage

# By how many grey levels of 255 a pixel must differ: the lines are of one solid colour, and the clearer the difference
# that is asked for, the less of the noise beside them is taken for line. The lower ones find lines on a ground of their
# own colour.
_DIFFERENCES = (60, 40, 24, 14, 8)
# By how many pixels lines are widened to close gaps; small gaps are tried with all differences before large ones.
_WIDENINGS = ((0, 1, 2), (4, 6))
# Pieces of line below this extent in pixels do not count for where the curves are.
_MIN_PIECE_EXTENT = 8
# How far from the clearest pieces fainter ones are looked for: a fifth of the picture (discs are smaller), or this.
_MIN_MARGIN = 256
# More of a window than this is no line but noise.
_MAX_SHARE = 0.35
# Of the outer object: what the inside of the inner curve and the region between the curves must have at least.
_MIN_SHARE = 0.01
# Of the inner object: what is not line. An open curve around nothing is nearly all line.
_MIN_INSIDE = 0.3
_CROSS = ndimage.generate_binary_structure(2, 1)
_SQUARE = ndimage.generate_binary_structure(2, 2)


def two_curves(drawn: np.ndarray, clean: np.ndarray) -> tuple[np.ndarray, np.ndarray] | str:
    """What the outer and the inner curve enclose, lines included, as two boolean (H, W); or what was found instead.

    Args:
        drawn: the picture with the curves, (H, W) or (H, W, 3) uint8.
        clean: the same picture without them.
    """
    # uint8 without overflow: the larger minus the smaller.
    difference = np.maximum(drawn, clean) - np.minimum(drawn, clean)
    if difference.ndim == 3:
        difference = np.maximum(np.maximum(difference[..., 0], difference[..., 1]), difference[..., 2])
    clearest = int(difference.max())
    if clearest < _DIFFERENCES[-1]:
        return f"no line: the two pictures differ by at most {clearest} grey levels"
    clear = next((place for level in _DIFFERENCES if (place := _window(difference >= level))), None)
    if clear is None:
        return "no line, only scattered pixels that differ"
    near = _grown(clear, difference.shape)
    answer = _search(difference[near])
    if isinstance(answer, str):
        return answer
    outer, inner = (np.zeros(difference.shape, bool) for _ in range(2))
    outer[near], inner[near] = answer
    return outer, inner


def _search(difference: np.ndarray) -> tuple[np.ndarray, np.ndarray] | str:
    """The two objects, by the clearest difference and the least widening that show them; or what was found instead."""
    windows: dict[int, tuple[slice, slice] | None] = {}
    seen: set[str] = set()
    for widenings in _WIDENINGS:
        for level in _DIFFERENCES:
            if level not in windows:
                windows[level] = _window(difference >= level)
            window = windows[level]
            lines = difference[window] >= level if window else None
            if lines is None or lines.mean() > _MAX_SHARE:
                continue
            for widening in widenings:
                found = _enclosed(lines, widening)
                if isinstance(found, str):
                    seen.add(found)
                    continue
                outer, inner = (np.zeros(difference.shape, bool) for _ in range(2))
                outer[window], inner[window] = found
                return outer, inner
    return max(seen, key=len, default="differences everywhere")


def _window(lines: np.ndarray) -> tuple[slice, slice] | None:
    """The rows and columns of all pieces of line of some extent."""
    labels, _ = ndimage.label(lines, _SQUARE)
    pieces = [
        place
        for place in ndimage.find_objects(labels)
        if max(side.stop - side.start for side in place) >= _MIN_PIECE_EXTENT
    ]
    if not pieces:
        return None
    rows, columns = (
        slice(min(place[axis].start for place in pieces), max(place[axis].stop for place in pieces)) for axis in (0, 1)
    )
    return rows, columns


def _grown(place: tuple[slice, slice], shape_yx: tuple[int, int]) -> tuple[slice, slice]:
    """The window in which the fainter pieces of the same curves can lie."""
    margin = max(_MIN_MARGIN, max(shape_yx) // 5)
    rows, columns = (
        slice(max(0, side.start - margin), min(size, side.stop + margin))
        for side, size in zip(place, shape_yx, strict=True)
    )
    return rows, columns


def _enclosed(lines: np.ndarray, widening: int) -> tuple[np.ndarray, np.ndarray] | str:
    """The two objects in a window, lines widened by so many pixels to close gaps; or what is there instead."""
    # In a frame that no line crosses the first pixel is outside.
    frame = 1 + widening
    wide = np.pad(lines, frame)
    if widening:
        wide = ndimage.binary_dilation(wide, _CROSS, iterations=widening)
    outer = _largest(_filled(wide))
    between, count = ndimage.label(outer & ~wide, _CROSS)
    sizes = np.bincount(between.ravel(), minlength=count + 1)
    least = _MIN_SHARE * outer.sum()
    enclosed = [number for number in range(1, count + 1) if sizes[number] >= least]
    # The region between the curves is the one with a hole that holds the inside of the inner curve.
    for number in sorted(enclosed, key=lambda number: -sizes[number]):
        region = between == number
        hole = _filled(region) & ~region
        if hole.sum() < least:
            continue
        inner = _largest(hole)
        inside = (inner & ~wide).sum()
        if inside >= least and inside >= _MIN_INSIDE * inner.sum():
            part = slice(frame, -frame), slice(frame, -frame)
            return _narrowed(outer, widening)[part], _narrowed(inner, widening)[part]
    if len(enclosed) > 1:
        return f"closed curves that are not one within the other ({len(enclosed)} enclosed regions)"
    return "one closed curve" if enclosed else "no closed curve"


def _filled(mask: np.ndarray) -> np.ndarray:
    """A mask with its holes; its first pixel is outside."""
    ground, _ = ndimage.label(~mask, _CROSS)
    return ground != ground[0, 0]


def _largest(mask: np.ndarray) -> np.ndarray:
    labels, _ = ndimage.label(mask, _SQUARE)
    sizes = np.bincount(labels.ravel(), minlength=2)
    sizes[0] = 0
    return labels == max(1, sizes.argmax())


def _narrowed(found: np.ndarray, widening: int) -> np.ndarray:
    return ndimage.binary_erosion(found, _CROSS, iterations=widening) if widening else found
