"""Broken PNG, JPEG, TIFF and BMP files."""

from __future__ import annotations

import io
import struct
import zlib
from pathlib import Path

import numpy as np
from PIL import Image

from .damage import VALID, BrokenFile, Writer

_HW = (12, 17)


def pictures(root: Path, rng: np.random.Generator) -> list[BrokenFile]:
    grey = Image.fromarray(rng.integers(0, 255, _HW, dtype=np.uint8))
    colour = Image.fromarray(rng.integers(0, 255, (*_HW, 3), dtype=np.uint8))
    palette = colour.quantize(8)
    made: list[BrokenFile] = []
    for kind, picture, more in (
        ("png", colour, _pngs), ("png grey", grey, None), ("png palette", palette, None), ("jpg", colour, _jpegs),
        ("tif", colour, _tiffs), ("tif pages", grey, None), ("bmp", palette, _bmps), ("bmp colour", colour, None),
    ):  # fmt: skip
        writer, suffix = Writer(root, kind), kind.split()[0]
        whole = writer.place(f"whole.{suffix}")
        pages = {"save_all": True, "append_images": [grey, grey]} if "pages" in kind else {}
        picture.save(whole, **pages)
        data = whole.read_bytes()
        writer.damage(whole, rng, header=min(len(data), 200), cuts=14, flips=40)
        common = {"nothing": b"", "zeros": bytes(400), "a text": b"hello " * 50, "a PostScript program": _EPS}
        for what, content in {**common, **(more(data) if more else {})}.items():
            writer.put(f"a.{suffix}", content, what)
        if suffix == "tif":
            _odd_tiffs(writer, data)
        made += writer.made
    return made


_EPS = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 20 20\n%%EndComments\nshowpage\n%%EOF\n"


def _other(form: str) -> bytes:
    buffer = io.BytesIO()
    Image.new("P", (5, 4)).save(buffer, form)
    return buffer.getvalue()


def _chunk(name: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))


def _pngs(data: bytes) -> dict[str, bytes]:
    def png(width: int, height: int, bits: int = 8, kind: int = 0, pixels: bytes = b"", extra: bytes = b"") -> bytes:
        head = struct.pack(">IIBBBBB", width, height, bits, kind, 0, 0, 0)
        parts = _chunk(b"IHDR", head) + extra + _chunk(b"IDAT", zlib.compress(pixels)) + _chunk(b"IEND", b"")
        return b"\x89PNG\r\n\x1a\n" + parts

    return {
        "100000 x 100000 pixels": png(100000, 100000, kind=2, pixels=bytes(500)),
        "2^31 x 2^31 pixels": png(2**31 - 1, 2**31 - 1, pixels=bytes(500)),
        "14000 x 14000 pixels": png(14000, 14000, pixels=bytes(500)),
        "no columns": png(0, 5),
        "no rows": png(5, 0),
        "three bits": png(5, 5, bits=3, pixels=bytes(30)),
        "an unknown kind": png(5, 5, kind=5, pixels=bytes(30)),
        "no pixels": png(5, 5),
        "palette without a palette and without pixels": png(5, 5, kind=3, pixels=b""),
        "a text bomb": png(5, 5, extra=_chunk(b"zTXt", b"a\0\0" + zlib.compress(bytes(2**26)))),
        "a colour profile bomb and no pixels": png(5, 5, extra=_chunk(b"iCCP", b"a\0\0" + zlib.compress(bytes(2**26)))),
        "a GIF": _other("GIF"),
        "a PPM": b"P5 5 4 255\n" + bytes(20),
        "no IDAT": data[:33],
    }


def _jpegs(data: bytes) -> dict[str, bytes]:
    at = data.index(b"\xff\xc0") + 5  # height and width of the frame header

    def sized(height: int, width: int) -> bytes:
        return data[:at] + struct.pack(">HH", height, width) + data[at + 4 :]

    return {
        "65535 x 65535 pixels": sized(65535, 65535),
        "no rows": sized(0, 17),
        "no columns": sized(12, 0),
        "no tables": data.replace(b"\xff\xdb", b"\xff\xfe", 2)[:at],
        "an end alone": b"\xff\xd8\xff\xd9",
        "markers without end": b"\xff\xd8" + b"\xff\xe0\x00\x02" * 3000,
    }


def _bmps(data: bytes) -> dict[str, bytes]:
    def patched(at: int, form: str, *values: int) -> bytes:
        new = struct.pack("<" + form, *values)
        return data[:at] + new + data[at + len(new) :]

    return {
        "100000 x 100000 pixels": patched(18, "ii", 100000, 100000),
        "2^31 pixels wide": patched(18, "i", 2**31 - 1),
        "no columns": patched(18, "i", 0),
        "no rows": patched(22, "i", 0),
        "seven bits": patched(28, "h", 7),
        "an unknown packing": patched(30, "i", 99),
        "pixels behind the end": patched(10, "i", 10**6),
        "a header of 3 bytes": patched(14, "i", 3),
    }


def _tiffs(data: bytes) -> dict[str, bytes]:
    return {
        "100000 x 100000 pixels": _tiff({256: 100000, 257: 100000}),
        "no columns": _tiff({256: 0}),
        "no rows": _tiff({257: 0}),
        "a strip behind the end": _tiff({273: 10**6}),
        "an unknown packing": _tiff({259: 9999}),
        "seven bits": _tiff({258: 7}),
        "a directory behind the end": b"II*\0" + struct.pack("<I", 10**6),
        "no directory": b"II*\0" + bytes(4),
        "a directory of 65535 entries": b"II*\0\x08\0\0\0\xff\xff" + bytes(100),
        "too few pixels": _tiff({256: 300, 257: 300}),
    }


def _tiff(changes: dict[int, int], next_directory: int = 0) -> bytes:
    """A grey picture of 4 x 4 pixels, some of its tags otherwise."""
    tags = {256: 4, 257: 4, 258: 8, 259: 1, 262: 1, 273: 8, 277: 1, 278: 4, 279: 16, **changes}
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in sorted(tags.items()))
    directory = struct.pack("<H", len(tags)) + entries + struct.pack("<I", next_directory)
    return b"II*\0" + struct.pack("<I", 24) + bytes(16) + directory


def _odd_tiffs(writer: Writer, data: bytes) -> None:
    """What may be read, but not for ever."""
    writer.put("a.tif", _tiff({}, next_directory=24), "a directory that follows itself", VALID)
    writer.put("a.tif", data + data, "a picture behind the picture", VALID)
    chain = b"".join(_tiff({}, next_directory=0)[24:] for _ in range(1))
    writer.put("a.tif", b"II*\0" + struct.pack("<I", 8) + chain, "pixels in the header", VALID)
