"""What a source of unlabelled images is, and how one picture is read."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Protocol

import numpy as np

from medsam_adapter.data.intensity import to_unit
from medsam_adapter.data.pictures import read_picture
from medsam_adapter.errors import DataError


@dataclass
class Picture:
    """One unlabelled image.

    Attributes:
        name: where it came from, for messages.
        array: (H, W) or (H, W, 3) float32 in [0, 1].
        label: the source's class name where it has one, only for the linear-probe check.
    """

    name: str
    array: np.ndarray
    label: str | None = None


class Source(Protocol):
    """Images that can be read in any order.

    A source with several images in one file may also have `order(rng) -> (N,) permutation` of its indices, a random
    order in which reading is cheap, and `after(index) -> index` in the next file, which is tried where `index` cannot
    be read. `Mixture` shuffles freely and tries the next index where there are none.
    """

    name: str

    def __len__(self) -> int: ...

    def read(self, index: int) -> Picture:
        """Raises DataError for an image that cannot be read; a constant image is fine."""
        ...


def read_pages(
    file: Path | BinaryIO,
    name: str | Path,
    intensity: str | None = None,
    window_hu: Sequence[float] | None = None,
) -> np.ndarray:
    """(D, H, W) or (D, H, W, 3) float32 in [0, 1] of a picture file; D is 1 but for a TIFF of several pages.

    Args:
        file: a path, or the opened bytes of a picture.
        name: what errors call it.
        intensity, window_hu: see `data.intensity.to_unit`; None is for 8-bit pictures.

    Raises:
        DataError: damaged, no picture, or of an unknown intensity scale.
    """
    try:
        return to_unit(read_picture(file), intensity, window_hu)  # type: ignore[arg-type]  # Pillow opens streams as well
    except DataError as error:
        if error.found and not isinstance(file, Path):  # the address of the bytes is another in every run
            error.found = error.found.replace(repr(file), "it")
        raise with_file(error, name) from error
    except Exception as error:  # one odd file among a million must not end a run, whatever its decoder raises
        raise DataError(
            "cannot be read as a picture",
            file=name,
            expected="a whole picture",
            found=f"{type(error).__name__}: {error}",
        ) from error


def with_file(error: DataError, file: str | Path | None) -> DataError:
    """The same error, naming a file."""
    return DataError(error.problem, file=file, expected=error.expected, found=error.found, hint=error.hint)


def evenly(count: int, at_most: int | None) -> np.ndarray:
    """Up to `at_most` of the indices 0 .. count - 1, evenly spread, so that no class that sorts last is lost."""
    if at_most is None or at_most >= count:
        return np.arange(count)
    return np.linspace(0, count - 1, at_most).round().astype(np.int64)
