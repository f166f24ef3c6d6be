"""PNG, JPEG, TIFF and BMP files, read with Pillow."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, ImageSequence, UnidentifiedImageError

from ..errors import DataError

# What Pillow raises for a file that is damaged, no picture, or too large to be one.
_READ_ERRORS = (OSError, ValueError, SyntaxError, EOFError, UnidentifiedImageError, Image.DecompressionBombError)
_GREY = ("L", "I", "F", "I;16", "I;16L", "I;16B", "I;16N")


def read_picture(path: Path, *, keep_indices: bool = False) -> np.ndarray:
    """(D, H, W) grey or (D, H, W, 3) RGB; D is 1, or the number of pages of a TIFF.

    Turned upright by the EXIF orientation. 8-bit is uint8, 16-bit grey uint16, "I" int32, "F" float32, 1-bit uint8 0/1.
    Alpha is dropped, whatever it holds: the colours below it are the picture. Pillow reads 16-bit RGB as 8-bit.

    Args:
        keep_indices: a palette picture gives its indices (for a mask) and not its colours (for an image).

    Raises:
        DataError: damaged, no picture, or pages of different sizes.
    """
    try:
        with Image.open(path) as picture:
            is_stack = picture.format == "TIFF" and getattr(picture, "n_frames", 1) > 1
            frames = ImageSequence.Iterator(picture) if is_stack else [picture]
            pages = [_to_array(ImageOps.exif_transpose(frame), keep_indices) for frame in frames]
    except _READ_ERRORS as error:
        raise DataError(
            "cannot be read as a picture",
            file=path,
            expected="a whole PNG, JPEG, TIFF or BMP file",
            found=f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else 'no message'}",
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
