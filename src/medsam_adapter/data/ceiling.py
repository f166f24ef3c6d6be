"""Ceilings on what a file may take when it is read, checked from its header before anything is allocated.

A header of a few hundred bytes can claim terabytes, and a few megabytes of deflated zeros become gigabytes. What a
reader is about to hold is therefore counted first, in bytes of the stored dtype:

- NIfTI: the axes times the voxel size, and the place in the file where the voxels begin.
- Pictures: width x height x bytes of a pixel, over all pages of a TIFF.
- MetaImage, NRRD: size x components x bytes of a component.
- NumPy, HDF5: the shape of the array that is read.
- DICOM: frames x rows x columns x samples x bytes of a sample, over all files of a series.

The ceiling is 8 GiB, more than any clinical scan; the environment variable MSA_MAX_BYTES sets another. Scaling to
float32 or stacking slices may need a small multiple of it. `limits.refuse_larger_than` asks beforehand.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ..errors import DataError
from .kinds import one_line

DEFAULT_MAX_BYTES = 8 * 2**30
VARIABLE = "MSA_MAX_BYTES"
# A deflated stream grows to at most so many times its length (zlib's own figure: https://zlib.net/zlib_tech.html).
DEFLATE_RATIO = 1032


def ceiling_bytes() -> int:
    """The ceiling: 8 GiB, or what MSA_MAX_BYTES says.

    Raises:
        DataError: MSA_MAX_BYTES is no whole number above 0.
    """
    text = os.environ.get(VARIABLE, "").strip()
    if not text:
        return DEFAULT_MAX_BYTES
    if not text.isascii() or not text.isdigit() or not int(text):
        raise DataError(
            f"the environment variable {VARIABLE} is no size",
            expected="a number of bytes, such as 8589934592",
            found=repr(text[:80]),
        )
    return int(text)


def refuse_bytes(path: str | Path, num_bytes: int, limit: int | None = None) -> None:
    """Raises DataError where a file would take more than the ceiling (`ceiling_bytes()` if `limit` is None)."""
    limit = ceiling_bytes() if limit is None else limit
    if num_bytes > limit:
        raise DataError(
            "is too large to be read",
            file=path,
            expected=f"at most {_size(limit)} when it is unpacked",
            found=_size(num_bytes),
            hint=f"if the file is right and the memory is there, set {VARIABLE}={num_bytes}; otherwise the header is "
            "damaged",
        )


def refuse_cut_off(path: str | Path, num_bytes: int, in_file: int, *, is_deflated: bool = False) -> None:
    """Raises DataError where `in_file` bytes, deflated or plain, can never make the `num_bytes` of a header."""
    most = in_file * DEFLATE_RATIO if is_deflated else in_file
    if num_bytes > most:
        raise DataError(
            "is shorter than its header says",
            file=path,
            expected=f"{_size(num_bytes)} of values",
            found=f"{_size(in_file)}" + (", too few even if packed as tightly as can be" if is_deflated else ""),
            hint="the file is cut off or its header is damaged: copy it again",
        )


@contextmanager
def within_memory(path: str | Path) -> Iterator[None]:
    """Turns running out of memory while a file is read into a DataError."""
    try:
        yield
    except MemoryError as error:
        raise DataError(
            "does not fit into memory",
            file=path,
            expected="a file that this machine has room for",
            found=one_line(error),
            hint="close other programs, crop or downsample the scan, or take a larger machine",
        ) from error


def _size(num_bytes: int) -> str:
    value = float(num_bytes)
    for unit in ("bytes", "KiB", "MiB", "GiB"):
        if value < 1024:
            return f"{value:.4g} {unit}"
        value /= 1024
    return f"{value:.4g} TiB"
