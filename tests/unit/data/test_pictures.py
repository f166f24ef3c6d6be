"""Pictures that Pillow reads otherwise than they are stored: turned, kept exactly, or refused."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, TiffImagePlugin

from medsam_adapter.data.io import read_label, read_scan
from medsam_adapter.errors import DataError

VALUES = np.arange(12).reshape(3, 4) * 10
UPRIGHT = {1: VALUES, 3: VALUES[::-1, ::-1], 6: np.rot90(VALUES, -1), 8: np.rot90(VALUES)}


def write_tiff(path: Path, array: np.ndarray, *, photometric: int = 1, sample_format: int = 1) -> Path:
    """One strip without compression, as Pillow writes none of these."""
    data, short, long = array.tobytes(), 3, 4
    tags = [
        (256, short, array.shape[1]), (257, short, array.shape[0]), (258, short, array.dtype.itemsize * 8),
        (259, short, 1), (262, short, photometric), (273, long, 8), (277, short, 1), (278, short, array.shape[0]),
        (279, long, len(data)), (339, short, sample_format),
    ]  # fmt: skip
    entries = b"".join(
        struct.pack("<HHI", tag, kind, 1)
        + (struct.pack("<HH", value, 0) if kind == short else struct.pack("<I", value))
        for tag, kind, value in tags
    )
    path.write_bytes(
        b"II*\0" + struct.pack("<I", 8 + len(data)) + data + struct.pack("<H", len(tags)) + entries + b"\0\0\0\0"
    )
    return path


def write_png16(path: Path, array: np.ndarray) -> Path:
    """(H, W, C) uint16: grey with alpha, RGB or RGBA."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    height, width, channels = array.shape
    header = struct.pack(">IIBBBBB", width, height, 16, {2: 4, 3: 2, 4: 6}[channels], 0, 0, 0)
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in array)
    path.write_bytes(
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    )
    return path


@pytest.mark.parametrize("compression", ["raw", "tiff_lzw"])
@pytest.mark.parametrize("orientation", UPRIGHT)
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_a_tiff_is_turned_upright(tmp_path, orientation, compression, dtype):
    tags = TiffImagePlugin.ImageFileDirectory_v2()
    tags[274] = orientation
    Image.fromarray(VALUES.astype(dtype)).save(tmp_path / "a.tif", tiffinfo=tags, compression=compression)
    np.testing.assert_array_equal(read_scan(tmp_path / "a.tif").array[0], UPRIGHT[orientation])


@pytest.mark.parametrize("channels", [2, 3, 4])
def test_colour_of_16_bits_is_refused(tmp_path, channels):
    file = write_png16(tmp_path / "a.png", np.full((4, 5, channels), 2, np.uint16))
    for read in (read_scan, read_label):
        with pytest.raises(DataError, match="cannot be read exactly") as caught:
            read(file)
        assert "16-bit RGB" in caught.value.found and "16-bit grey" in caught.value.hint


STORED = {
    "uint16": (VALUES.astype(np.uint16) * 500, {}),
    "int16": (VALUES.astype(np.int16) - 50, {"sample_format": 2}),
    "uint32": (VALUES.astype(np.uint32) * 30_000_000, {}),
    "int32": (VALUES.astype(np.int32) * -9_000_000, {"sample_format": 2}),
    "float32": (VALUES.astype(np.float32) / 7, {"sample_format": 3}),
    "signed 8-bit grey": (VALUES.astype(np.int8) - 50, {"sample_format": 2}),
    "16-bit grey in which 0 is white": (VALUES.astype(np.uint16), {"photometric": 0}),
}


@pytest.mark.parametrize("kind", STORED)
def test_grey_keeps_its_values_or_is_refused(tmp_path, kind):
    array, tags = STORED[kind]
    file = write_tiff(tmp_path / "a.tif", array, **tags)
    if "grey" in kind:
        with pytest.raises(DataError, match="cannot be read exactly") as caught:
            read_scan(file)
        assert caught.value.found == kind
        return
    np.testing.assert_array_equal(read_scan(file).array[0], array)


def test_8_bit_grey_in_which_0_is_white_is_turned_round(tmp_path):
    file = write_tiff(tmp_path / "a.tif", VALUES.astype(np.uint8), photometric=0)
    np.testing.assert_array_equal(read_scan(file).array[0], 255 - VALUES)
