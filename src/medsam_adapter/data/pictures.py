"""PNG, JPEG, TIFF and BMP files, read with Pillow."""

from __future__ import annotations

import contextlib
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, ImageSequence, UnidentifiedImageError

from ..errors import DataError
from .ceiling import ceiling_bytes, refuse_bytes

# What Pillow raises for a file that is damaged or no picture, beside what it means to raise.
_READ_ERRORS = (
    OSError, ValueError, SyntaxError, EOFError, TypeError, LookupError, OverflowError, RuntimeError, struct.error,
    zlib.error, UnidentifiedImageError,
)  # fmt: skip
# Pillow knows many more, some of which run other programs (EPS); a file's name says nothing of what is in it.
FORMATS = ("PNG", "JPEG", "TIFF", "BMP")
_BYTES = {"I": 4, "F": 4, "I;16": 2, "I;16L": 2, "I;16B": 2, "I;16N": 2}  # of a pixel; else one for each band
_BITS, _PHOTOMETRIC, _SAMPLE_FORMAT = 258, 262, 339  # tags of TIFF
_GREY = ("L", "I", "F", "I;16", "I;16L", "I;16B", "I;16N")


def read_picture(path: Path, *, keep_indices: bool = False) -> np.ndarray:
    """(D, H, W) grey or (D, H, W, 3) RGB; D is 1, or the number of pages of a TIFF.

    Turned upright by the EXIF orientation. 8-bit is uint8, 16-bit grey uint16, "I" int32, "F" float32, 1-bit uint8 0/1.
    Alpha is dropped, whatever it holds: the colours below it are the picture.

    Args:
        keep_indices: a palette picture gives its indices (for a mask) and not its colours (for an image).

    Raises:
        DataError: damaged, no picture, too large (more pixels than Pillow opens, or more bytes than
            `ceiling.ceiling_bytes`), pages of different sizes, or values that Pillow does not keep (16-bit colour).
    """
    pages, num_bytes, limit = [], 0, ceiling_bytes()
    try:
        with _opened(path) as file, Image.open(file, formats=FORMATS) as picture:
            for frame in _frames(picture):
                num_bytes += _frame_bytes(frame)
                refuse_bytes(path, num_bytes, limit)
                _refuse_lost_values(frame, path)
                is_unsigned = frame.mode == "I" and _tag(frame, _SAMPLE_FORMAT) == 1 and _tag(frame, _BITS) == 32
                array = _to_array(ImageOps.exif_transpose(frame), keep_indices)
                pages.append(array.view(np.uint32) if is_unsigned else array)
    except DataError:
        raise
    except Image.DecompressionBombError as error:
        raise DataError(
            "has more pixels than a picture is opened with",
            file=path,
            expected=f"at most {2 * (Image.MAX_IMAGE_PIXELS or 0)} pixels",
            found=str(error).splitlines()[0],
            hint="cut it into tiles or shrink it; if it should be small, its header is damaged",
        ) from error
    except _READ_ERRORS as error:
        words = str(error).splitlines()[0] if str(error) else "no message"
        raise DataError(
            "cannot be read as a picture",
            file=path,
            expected="a whole PNG, JPEG, TIFF or BMP file",
            found="none of these" if isinstance(error, UnidentifiedImageError) else f"{type(error).__name__}: {words}",
            hint="the file may be cut off or renamed: copy it again, or open it in a viewer",
        ) from error
    if len({page.shape for page in pages}) > 1:
        raise DataError(
            "has pages that do not stack to a volume",
            file=path,
            expected="pages of one size and kind",
            found=", ".join(sorted({str(page.shape) for page in pages})),
            hint="save each page as a file of its own",
        )
    return np.stack(pages)


def _opened(path: Path) -> contextlib.AbstractContextManager:
    """An open file, if it is none: what has a name is mapped into memory, and Pillow 12.3 then turns a TIFF wrongly."""
    return path.open("rb") if isinstance(path, Path) else contextlib.nullcontext(path)


def claimed_bytes(path: Path, limit: int) -> int:
    """What the pages of a picture take, as their headers say, or some number above `limit`; 0 if it is no picture."""
    count = 0
    try:
        with Image.open(path, formats=FORMATS) as picture:
            for frame in _frames(picture):
                count += _frame_bytes(frame)
                if count > limit:
                    break
    except Image.DecompressionBombError:
        return limit + 1
    except _READ_ERRORS:
        pass
    return count


def _frames(picture: Image.Image) -> Iterator[Image.Image]:
    is_stack = picture.format == "TIFF" and getattr(picture, "n_frames", 1) > 1
    yield from ImageSequence.Iterator(picture) if is_stack else [picture]


def _frame_bytes(frame: Image.Image) -> int:
    return frame.width * frame.height * _BYTES.get(frame.mode, len(frame.getbands()))


def _tag(frame: Image.Image, number: int) -> int | None:
    """The first value of a TIFF tag; None in other files."""
    values = getattr(frame, "tag_v2", {}).get(number)
    return values[0] if isinstance(values, tuple) else values


def _refuse_lost_values(frame: Image.Image, path: Path) -> None:
    """Pillow keeps the upper 8 bits of 16-bit colour, which leaves nothing of a label map, and has no signed bytes."""
    bits = _tag(frame, _BITS) or (16 if ";16" in str(getattr(frame, "tile", "")) else 8)
    sign = {2: "signed ", 3: "floating point "}.get(_tag(frame, _SAMPLE_FORMAT) or 1, "")
    found = ""
    if len(frame.getbands()) > 1 and bits > 8:
        found = f"{sign}{bits}-bit {frame.mode}"
    elif frame.mode == "L" and sign:
        found = f"{sign}{bits}-bit grey"
    elif _tag(frame, _PHOTOMETRIC) == 0 and bits > 8:
        found = f"{sign}{bits}-bit grey in which 0 is white"
    if found:
        raise DataError(
            "holds values that cannot be read exactly", file=path, found=found,
            expected="8-bit colour, or grey of 8, 16 or 32 bits in which 0 is black",
            hint="save it as 8-bit colour, or as 16-bit grey without alpha",
        )  # fmt: skip


def _to_array(frame: Image.Image, keep_indices: bool) -> np.ndarray:
    mode = frame.mode
    if mode == "1":
        return np.asarray(frame).astype(np.uint8)
    if mode in ("P", "PA"):
        frame = frame if keep_indices and mode == "P" else frame.convert("RGB")
    elif mode in ("LA", "La"):
        frame = frame.getchannel(0)
    elif mode not in _GREY:
        frame = frame.convert("RGB")
    array = np.asarray(frame)
    return array.astype(array.dtype.newbyteorder("="))
