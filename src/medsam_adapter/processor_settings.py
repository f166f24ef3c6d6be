"""Settings of `MSAProcessor` that can be used, and the error for a file with others."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from numbers import Integral
from pathlib import Path
from typing import Any

import numpy as np

from medsam_adapter.adapters.reading import damage_told
from medsam_adapter.errors import DataError

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def checked_image_size(size: Any) -> int:
    """A side in pixels. Raises `DataError` unless it is a whole number above 0."""
    if not isinstance(size, Integral) or isinstance(size, bool) or size < 1:
        raise DataError("the image size is not usable", expected="image_size, pixels above 0", found=repr(size))
    return int(size)


def checked_normalisation(mean: Sequence[float], std: Sequence[float]) -> tuple[list[float], list[float]]:
    """Mean and deviation of the three channels. Raises `DataError` unless they are numbers to normalise with."""
    means, stds = _three(mean), _three(std)
    if means is None or stds is None or min(stds) <= 0:
        raise DataError(
            "the normalisation is not usable",
            expected="image_mean of three numbers and image_std of three above 0",
            found=f"{mean} and {std}",
        )
    return means, stds


@contextmanager
def settings_told(name: str | Path) -> Iterator[None]:
    """Makes a CheckpointError of settings that cannot be read, or cannot be, from a folder or Hub repo."""
    expected = "image_size above 0, image_mean and image_std of three numbers, an intensity and axes that there are"
    with damage_told(name, "preprocessor_config.json", expected):
        try:
            yield
        except DataError as error:
            raise ValueError(f"{error.problem}: {error.found}") from error


def _three(values: Any) -> list[float] | None:
    """Three finite numbers; None for anything else."""
    try:
        numbers = [float(value) for value in values]
    except (TypeError, ValueError):
        return None
    return numbers if len(numbers) == 3 and np.isfinite(numbers).all() else None
