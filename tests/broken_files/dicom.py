"""Broken DICOM files, series and segmentations."""

from __future__ import annotations

import shutil
import struct
import zlib
from pathlib import Path

import numpy as np
import pydicom
from pydicom.dataelem import RawDataElement
from pydicom.dataset import Dataset
from pydicom.encaps import encapsulate
from pydicom.sequence import Sequence
from pydicom.tag import Tag

from miniatures.dicom import enhanced, series

from .damage import FAIL, SAME, VALID, WHOLE, BrokenFile, Writer

_SHAPE = (4, 9, 8)


def dicom(root: Path, rng: np.random.Generator) -> list[BrokenFile]:
    return _single(root, rng) + _folders(root, rng) + _films(root, rng) + _segmentations(root, rng)


def _patched(source: Path, target: Path, values: dict[str, object]) -> Path:
    """A copy whose elements hold these values, as bytes where they are text: pydicom would mend or refuse them."""
    dataset = pydicom.dcmread(source)
    for keyword, value in values.items():
        if value is None:
            del dataset[keyword]
        elif isinstance(value, bytes) and keyword != "PixelData":
            tag = Tag(keyword)
            old = dataset[keyword]
            dataset._dict[tag] = RawDataElement(tag, old.VR, len(value), value, 0, False, True)
        else:
            setattr(dataset, keyword, value)
    dataset.save_as(target)
    return target


def _single(root: Path, rng: np.random.Generator) -> list[BrokenFile]:
    writer = Writer(root, "dcm")
    folder = writer.place("whole.dcm").parent
    series(folder, rng.integers(0, 900, (1, 9, 8)).astype(np.int16), name="whole.dcm", RescaleIntercept=-1000,
           RescaleSlope=1)  # fmt: skip
    whole = folder / "whole.dcm"
    data = whole.read_bytes()
    # No reader can know that a header's last, optional elements are lost, so what is cut off before the pixels fails.
    writer.damage(whole, rng, header=len(data) - 144, cuts=24, flips=150)
    changes: dict[str, dict[str, object]] = {
        "65535 rows": {"Rows": 65535},
        "no rows": {"Rows": 0},
        "no columns": {"Columns": 0},
        "Rows is missing": {"Rows": None},
        "2^31 frames": {"NumberOfFrames": 2**31 - 1},
        "65535 x 65535 pixels in 9999 frames": {"Rows": 65535, "Columns": 65535, "NumberOfFrames": 9999},
        "three bits": {"BitsAllocated": 3},
        "no bits": {"BitsAllocated": 0},
        "64 bits": {"BitsAllocated": 64},
        "seven samples": {"SamplesPerPixel": 7},
        "no samples": {"SamplesPerPixel": 0},
        "no pixels": {"PixelData": None},
        "pixels that end early": {"PixelData": bytes(50)},
        "an unknown colour space": {"PhotometricInterpretation": "SAUSAGE", "SamplesPerPixel": 3},
        "a slope that is a word": {"RescaleSlope": b"steep "},
        "a slope of NaN": {"RescaleSlope": b"NaN "},
        "an infinite intercept": {"RescaleIntercept": b"inf "},
        "a slope beyond float32": {"RescaleSlope": b"1e300 "},
        "a position of two numbers": {"ImagePositionPatient": b"1\\2 "},
        "a position of NaN": {"ImagePositionPatient": b"1\\2\\NaN "},
        "a position beyond the stars": {"ImagePositionPatient": b"1\\2\\1e400 "},
        "an orientation of 0": {"ImageOrientationPatient": b"0\\0\\0\\0\\0\\0 "},
        "one direction twice": {"ImageOrientationPatient": b"1\\0\\0\\1\\0\\0 "},
        "an orientation of words": {"ImageOrientationPatient": b"left\\right"},
        "a pixel spacing of 0": {"PixelSpacing": b"0\\0 "},
        "a negative pixel spacing": {"PixelSpacing": b"-1\\1"},
        "a pixel spacing of one number": {"PixelSpacing": b"1 "},
        "an infinite pixel spacing": {"PixelSpacing": b"inf\\inf "},
    }
    for what, values in changes.items():
        writer.add(_patched(whole, writer.place("a.dcm"), values), what)
    for what, syntax in (
        ("pixels that are no JPEG", "1.2.840.10008.1.2.4.50"),
        ("pixels that are no JPEG 2000", "1.2.840.10008.1.2.4.90"),
        ("pixels that are no RLE", "1.2.840.10008.1.2.5"),
    ):
        dataset = pydicom.dcmread(whole)
        dataset.file_meta.TransferSyntaxUID = syntax
        dataset.PixelData = encapsulate([rng.bytes(100)])
        dataset["PixelData"].VR = "OB"
        dataset["PixelData"].is_undefined_length = True
        target = writer.place("a.dcm")
        dataset.save_as(target)
        writer.add(target, what)
    for what, syntax in (("an unknown transfer syntax", b"1.2.3.4"), ("no transfer syntax", b"")):
        writer.put("a.dcm", data.replace(b"1.2.840.10008.1.2.1\0", syntax.ljust(20, b"\0"), 1), what, VALID)
    head = data[: _end_of_head(data)]
    packed = head.replace(b"1.2.840.10008.1.2.1\0", b"1.2.840.10008.1.2.1.99", 1)
    packed = packed.replace(b"UI\x14\x00" + b"1.2.840.10008.1.2.1.99", b"UI\x16\x00" + b"1.2.840.10008.1.2.1.99", 1)
    body = data[len(head) :]
    for what, content in (
        (
            "a deflated bomb",
            _deflated(body + b"\x09\x00\x10\x00UN\0\0" + struct.pack("<I", 7 * 2**27) + bytes(7 * 2**27)),
        ),
        ("deflated rubbish", rng.bytes(300)),
        ("nothing deflated", b""),
        ("a deflated start", _deflated(body)[:-40]),
    ):
        writer.put("a.dcm", packed + content, what)
    nested = b"\x08\x00\x40\x11SQ\0\0\xff\xff\xff\xff\xfe\xff\x00\xe0\xff\xff\xff\xff" * 5000
    writer.put("a.dcm", head + nested, "5000 sequences in each other")
    writer.put("a.dcm", head + nested[:20], "a sequence without an end")
    for what, content in (("nothing", b""), ("a magic alone", bytes(128) + b"DICM"), ("zeros", bytes(500)),
                          ("a text", b"hello " * 90), ("no magic", data[132:]), ("a head alone", head)):  # fmt: skip
        writer.put("a.dcm", content, what)
    return writer.made


def _deflated(data: bytes) -> bytes:
    packer = zlib.compressobj(1, zlib.DEFLATED, -zlib.MAX_WBITS)
    return packer.compress(data) + packer.flush()


def _end_of_head(data: bytes) -> int:
    """The first byte behind group 2, by its group length."""
    return 132 + 12 + struct.unpack("<I", data[140:144])[0]


def _folders(root: Path, rng: np.random.Generator) -> list[BrokenFile]:
    writer = Writer(root, "series")
    whole = writer.place("whole")
    stored = rng.integers(0, 900, _SHAPE).astype(np.int16)
    series(whole, stored, name="{}.dcm", RescaleSlope=1, RescaleIntercept=-1000)

    writer.add(whole, "whole", WHOLE)

    def copy(what: str, rule: str = FAIL) -> Path:
        target = writer.place("a")
        shutil.copytree(whole, target)
        writer.add(target, what, rule, whole if rule == SAME else None)
        return target

    (copy("a slice is missing") / "1.dcm").unlink()
    folder = copy("a slice twice")
    shutil.copy(folder / "1.dcm", folder / "copy.dcm")
    (copy("an empty slice") / "2.dcm").write_bytes(b"")
    (copy("a slice of zeros") / "3.dcm").write_bytes(bytes(900))
    for what, values in {
        "a slice of another size": {"Rows": 8},
        "a slice of 65535 rows": {"Rows": 65535},
        "a slice elsewhere": {"ImagePositionPatient": b"-10\\20\\500"},
        "a slice nowhere": {"ImagePositionPatient": None},
        "a slice at NaN": {"ImagePositionPatient": b"nan\\20\\-26"},
        "a slice that leans": {"ImageOrientationPatient": b"1\\0\\0\\0\\0.8\\0.6"},
        "a slice of another series": {"SeriesInstanceUID": "1.2.3"},
        "a slice of other pixels": {"PixelSpacing": b"0.9\\0.9 "},
        "a slice without pixels": {"PixelData": None},
        "a slice with few pixels": {"PixelData": bytes(20)},
        "a slice in another frame of reference": {"FrameOfReferenceUID": "1.2.3"},
        "a slice of 10^9 frames": {"NumberOfFrames": 10**9},
        "a slice in colour": {"SamplesPerPixel": 3, "PhotometricInterpretation": "RGB", "PlanarConfiguration": 0},
    }.items():
        target = copy(what) / "2.dcm"
        _patched(target, target, values)
    data = (whole / "2.dcm").read_bytes()
    for at in np.linspace(1, len(data) - 2, 40).astype(int):
        (copy(f"a slice cut at {at}", SAME) / "2.dcm").write_bytes(data[:at])
    for _ in range(60):
        at = int(rng.integers(132, len(data) - 144))
        value = data[at] ^ int(rng.integers(1, 256))
        changed = data[:at] + bytes([value]) + data[at + 1 :]
        (copy(f"byte {at} of a slice is {value}", VALID) / "2.dcm").write_bytes(changed)
    empty = writer.place("a")
    empty.mkdir()
    writer.add(empty, "an empty folder")
    texts = writer.place("a")
    texts.mkdir()
    (texts / "a.txt").write_text("hello")
    writer.add(texts, "a folder of texts")
    return writer.made


def _films(root: Path, rng: np.random.Generator) -> list[BrokenFile]:
    writer = Writer(root, "enhanced")
    whole = writer.place("whole.dcm")
    enhanced(whole, rng.integers(0, 900, _SHAPE).astype(np.int16), [0.0, 1.0, 2.0, 3.0])
    writer.damage(whole, rng, header=whole.stat().st_size - 600, cuts=16, flips=60)
    for what, values in {
        "100 frames": {"NumberOfFrames": 100},
        "10^9 frames": {"NumberOfFrames": 10**9},
        "minus four frames": {"NumberOfFrames": -4},
        "no places": {"PerFrameFunctionalGroupsSequence": None},
        "no sizes": {"SharedFunctionalGroupsSequence": None},
        "empty groups": {"SharedFunctionalGroupsSequence": Sequence([Dataset()])},
    }.items():
        writer.add(_patched(whole, writer.place("a.dcm"), values), what)
    return writer.made


def _segmentations(root: Path, rng: np.random.Generator) -> list[BrokenFile]:
    from medsam_adapter.data.io import read_scan, write_mask

    writer = Writer(root, "seg")
    folder = writer.place("series")
    series(folder, rng.integers(0, 900, _SHAPE).astype(np.int16), name="{}.dcm")
    labels = np.zeros(_SHAPE, np.uint8)
    labels[1:3, 2:5, 2:6], labels[0, :2, :2] = 1, 2
    whole = write_mask(writer.place("whole.dcm"), labels, read_scan(folder), {1: "liver", 2: "spleen"})
    writer.damage(whole, rng, header=whole.stat().st_size - 60, cuts=16, flips=60)
    frames = pydicom.dcmread(whole).PerFrameFunctionalGroupsSequence

    def changed(**values: object) -> Sequence:
        """The groups of all frames, with values of the last one otherwise."""
        groups = pydicom.dcmread(whole).PerFrameFunctionalGroupsSequence
        if "position" in values:
            groups[-1].PlanePositionSequence[0].ImagePositionPatient = values["position"]
        if "segment" in values:
            groups[-1].SegmentIdentificationSequence[0].ReferencedSegmentNumber = values["segment"]
        return groups

    for what, values in {
        "no frames' groups": {"PerFrameFunctionalGroupsSequence": None},
        "one group for all frames": {"PerFrameFunctionalGroupsSequence": Sequence(frames[:1])},
        "a frame a million km away": {"PerFrameFunctionalGroupsSequence": changed(position=[-10, 20, 1e12])},
        "a frame to the side": {"PerFrameFunctionalGroupsSequence": changed(position=[990, 20, -30])},
        "a segment of 0": {"PerFrameFunctionalGroupsSequence": changed(segment=0)},
        "no segments": {"SegmentSequence": None},
        "10^9 frames": {"NumberOfFrames": 10**9},
        "60000 x 60000": {"Rows": 60000, "Columns": 60000},
        "fractions": {"SegmentationType": "FRACTIONAL"},
        "an unknown type": {"SegmentationType": "SAUSAGE"},
        "no pixels": {"PixelData": None},
        "few pixels": {"PixelData": b"\x01\x02"},
    }.items():
        writer.add(_patched(whole, writer.place("a.dcm"), values), what)
    return writer.made
