"""Broken NIfTI, MetaImage, NRRD, NumPy and HDF5 files."""

from __future__ import annotations

import gzip
import io
import os
import pickle
import struct
import zipfile
from pathlib import Path

import h5py
import nibabel as nib
import numpy as np
import SimpleITK as sitk

from .damage import FAIL, SAME, VALID, BrokenFile, Writer

SHAPE = (6, 9, 8)
BOMB_BYTES = 700 * 2**20
_AFFINE = np.array([[-0.7, 0, 0, 3], [0, 0.8, 0, 4], [0, 0, 2.0, 5], [0, 0, 0, 1]])


def voxels(rng: np.random.Generator, dtype: str = "<i2") -> np.ndarray:
    return rng.integers(0, 200, SHAPE).astype(dtype)


def nifti(root: Path, rng: np.random.Generator) -> list[BrokenFile]:
    plain, packed = Writer(root, "nii"), Writer(root, "nii.gz")
    whole = plain.place("whole.nii")
    nib.save(nib.Nifti1Image(voxels(rng), _AFFINE), whole)
    second = plain.place("second.nii")
    nib.save(nib.Nifti2Image(voxels(rng), _AFFINE), second)
    floats = plain.place("floats.nii")
    nib.save(nib.Nifti1Image(voxels(rng).astype(np.float32), _AFFINE), floats)
    plain.damage(whole, rng, header=352, cuts=24, flips=150)
    plain.damage(second, rng, header=544, flips=60)
    data = whole.read_bytes()

    def patched(at: int, form: str, *values: float, of: bytes = data) -> bytes:
        packed_values = struct.pack("<" + form, *values)
        return of[:at] + packed_values + of[at + len(packed_values) :]

    huge = patched(42, "3h", 30000, 30000, 30000)
    broken = {
        "30000^3 voxels": huge,
        "30000^6 voxels": patched(40, "8h", 6, *[30000] * 6, 1),
        "a negative axis": patched(42, "h", -6),
        "all axes negative": patched(42, "3h", -6, -9, -8),
        "an axis of 0": patched(44, "h", 0),
        "no axes": patched(40, "h", 0),
        "nine axes": patched(40, "h", 9),
        "two volumes": patched(40, "5h", 4, 6, 9, 4, 2),
        "complex voxels": patched(70, "2h", 32, 64),
        "an unknown dtype": patched(70, "2h", 9999, 16),
        "voxels at the end of the earth": patched(108, "f", 3e9),
        "voxels at infinity": patched(108, "f", np.inf),
        "voxels at nowhere": patched(108, "f", np.nan),
        "another magic": patched(344, "4s", b"xx1\0"),
        "a NaN in the affine": patched(280, "f", np.nan),
        "an infinity in the affine": patched(292, "f", np.inf),
        "an affine with a column of 0": patched(280, "12f", *[0, 0, 0, 3, 0, 1, 0, 4, 0, 0, 1, 5]),
        "an affine whose columns are one": patched(280, "12f", *[1, 1, 0, 3, 1, 1, 0, 4, 0, 0, 1, 5]),
        "an affine of zeros": patched(280, "12f", *[0] * 12),
        "a NaN voxel": patched(352, "f", np.nan, of=floats.read_bytes()),
        "an infinite voxel": patched(400, "f", -np.inf, of=floats.read_bytes()),
        "a text": b"patient,age\n1,2\n" * 40,
        "zeros": bytes(1000),
        "a header and no voxels": data[:352],
        "nothing": b"",
        "voxels scaled to infinity": patched(112, "2f", 3e38, 3e38, of=floats.read_bytes()),
    }
    for what, content in broken.items():
        plain.put("a.nii", content, what)
        packed.put("a.nii.gz", gzip.compress(content, 1), what)
    for at, form, value in ((112, "f", np.nan), (112, "f", np.inf), (112, "f", 0), (116, "f", np.nan), (123, "b", 7)):
        plain.put("a.nii", patched(at, form, value), f"{value} at {at}", VALID)
    plain.put("a.nii", patched(344, "4s", b"ni1\0"), "a detached header with its voxels", SAME, whole)
    original = packed.place("whole.nii.gz")
    original.write_bytes(gzip.compress(data, 1))
    packed.damage(original, rng, header=400, cuts=20, flips=60)
    packed.put("a.nii.gz", original.read_bytes() + rng.bytes(64), "bytes behind the end", SAME, original)
    packed.put("a.nii.gz", original.read_bytes() + gzip.compress(bytes(9)), "a second member", SAME, original)
    packed.put("a.nii.gz", gzip.compress(original.read_bytes()), "packed twice")
    packed.put("a.nii.gz", data, "not packed")
    bomb = patched(42, "3h", 1000, 1000, 400)  # 800 MB of int16
    packed.add(_gzip_bomb(packed.place("a.nii.gz"), bomb[:352]), "a gzip bomb that its header owns up to")
    packed.add(_gzip_bomb(packed.place("a.nii.gz"), data), "a gzip bomb behind the voxels", SAME, original)
    return plain.made + packed.made


def _gzip_bomb(path: Path, start: bytes) -> Path:
    with gzip.open(path, "wb", compresslevel=1) as file:
        file.write(start)
        for _ in range(BOMB_BYTES // 2**24):
            file.write(bytes(2**24))
    return path


def meta(root: Path, rng: np.random.Generator) -> list[BrokenFile]:
    made: list[BrokenFile] = []
    image = sitk.GetImageFromArray(voxels(rng))
    image.SetSpacing((0.7, 0.8, 2.0))
    for suffix, is_packed in (("mha", False), ("mha", True), ("mhd", False), ("nrrd", False), ("nrrd", True)):
        writer = Writer(root, f"{suffix}{' packed' * is_packed}")
        whole = writer.place(f"whole.{suffix}")
        sitk.WriteImage(image, str(whole), useCompression=is_packed)
        neighbours = [entry for entry in whole.parent.iterdir() if entry != whole]
        data = whole.read_bytes()
        header = data.find(b"LOCAL") if suffix == "mha" else data.find(b"\n\n") if suffix == "nrrd" else len(data)
        writer.damage(whole, rng, header=header, cuts=10, flips=45)
        for each in writer.made:
            for neighbour in neighbours:
                (each.path.parent / neighbour.name).write_bytes(neighbour.read_bytes())
        for what, content in (_nrrds if suffix == "nrrd" else _metas)(data).items():
            path = writer.put(f"a.{suffix}", content, what)
            for neighbour in neighbours:
                (path.parent / neighbour.name).write_bytes(neighbour.read_bytes())
        made += writer.made
    return made


def _lines(data: bytes, mark: bytes, **values: str) -> bytes:
    """A header with some of its lines said otherwise."""
    out = []
    for line in data.split(b"\n"):
        word = line.split(mark)[0].strip().decode("latin1").replace(" ", "_")
        out.append(line.split(mark)[0] + mark + b" " + values[word].encode() if word in values else line)
    return b"\n".join(out)


def _metas(data: bytes) -> dict[str, bytes]:
    changes = {
        "30000^3 voxels": {"DimSize": "30000 30000 30000"},
        "a negative axis": {"DimSize": "8 -9 6"},
        "an axis of 0": {"DimSize": "8 0 6"},
        "sizes that are words": {"DimSize": "a b c"},
        "no axes": {"NDims": "0"},
        "a thousand axes": {"NDims": "1000"},
        "a billion axes": {"NDims": "1000000000"},
        "minus three axes": {"NDims": "-3"},
        "an unknown type": {"ElementType": "MET_SAUSAGE"},
        "voxels in /etc/passwd": {"ElementDataFile": "/etc/passwd"},
        "voxels above": {"ElementDataFile": "../../../../etc/passwd"},
        "voxels in a list that leads out": {"ElementDataFile": "LIST\n/etc/passwd\n/etc/group"},
        "voxels on a Windows drive": {"ElementDataFile": "C:\\voxels.raw"},
        "voxels that are not there": {"ElementDataFile": "elsewhere.raw"},
        "no spacing": {"ElementSpacing": "0 0 0"},
        "NaN spacing": {"ElementSpacing": "nan 1 1"},
        "infinite spacing": {"ElementSpacing": "inf 1 1"},
        "one direction thrice": {"TransformMatrix": "1 0 0 1 0 0 1 0 0"},
        "directions of 0": {"TransformMatrix": "0 0 0 0 0 0 0 0 0"},
        "NaN directions": {"TransformMatrix": "nan 0 0 0 1 0 0 0 1"},
        "an origin nowhere": {"Offset": "nan 0 0"},
    }
    made = {what: _lines(data, b" =", **values) for what, values in changes.items()}
    return {**made, "a text": b"hello\n" * 50, "zeros": bytes(500), "nothing": b""}


def _nrrds(data: bytes) -> dict[str, bytes]:
    changes = {
        "30000^3 voxels": {"sizes": "30000 30000 30000"},
        "a negative axis": {"sizes": "8 -9 6"},
        "an axis of 0": {"sizes": "8 0 6"},
        "sizes that are words": {"sizes": "a b c"},
        "no axes": {"dimension": "0"},
        "seventeen axes": {"dimension": "17"},
        "an unknown type": {"type": "sausage"},
        "an unknown packing": {"encoding": "rot13"},
        "directions of 0": {"space_directions": "(0,0,0) (0,0,0) (0,0,0)"},
        "one direction thrice": {"space_directions": "(1,0,0) (1,0,0) (1,0,0)"},
        "infinite directions": {"space_directions": "(inf,0,0) (0,1,0) (0,0,1)"},
        "an origin nowhere": {"space_origin": "(nan,0,0)"},
    }
    made = {what: _lines(data, b":", **values) for what, values in changes.items()}
    for what, name in (("/etc/passwd", "/etc/passwd"), ("above", "../../x.raw"), ("a list", "LIST\n/etc/passwd")):
        made[f"voxels in {what}"] = data.replace(b"\nencoding:", f"\ndata file: {name}\nencoding:".encode())
    return {**made, "a text": b"hello\n" * 50, "zeros": bytes(500), "nothing": b"", "a magic alone": b"NRRD0004\n"}


class Runs:
    """A pickle that would leave a trace if it were loaded."""

    def __reduce__(self):
        return os.mkdir, (os.environ.get("MSA_FUZZ_TRACE", "/tmp/msa-fuzz-trace"),)


def arrays(root: Path, rng: np.random.Generator) -> list[BrokenFile]:
    return _npy(root, rng) + _npz(root, rng) + _hdf5(root, rng)


def _npy_header(text: str) -> bytes:
    start = text.encode("latin1")
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(start)) + start


def _npy(root: Path, rng: np.random.Generator) -> list[BrokenFile]:
    writer = Writer(root, "npy")
    whole = writer.place("whole.npy")
    np.save(whole, voxels(rng))
    writer.damage(whole, rng, header=128, cuts=20, flips=80)
    head = "{'descr': %r, 'fortran_order': False, 'shape': %s, }\n"
    broken = {
        "30000^3 voxels": _npy_header(head % ("<i2", "(30000, 30000, 30000)")) + bytes(100),
        "a negative axis": _npy_header(head % ("<i2", "(6, -9, 8)")) + bytes(864),
        "an axis of 0": _npy_header(head % ("<i2", "(6, 0, 8)")),
        "a shape that is code": _npy_header(head % ("<i2", "__import__('os').getpid()")) + bytes(864),
        "a shape of a thousand brackets": _npy_header(head % ("<i2", "(" * 4000 + ")" * 4000)) + bytes(864),
        "a number in place of a shape": _npy_header(head % ("<i2", "7")) + bytes(864),
        "texts": _npy_header(head % ("<U4", "(6, 9, 8)")) + bytes(6912),
        "records": _npy_header("{'descr': [('a', '<i2')], 'fortran_order': False, 'shape': (6, 9, 8), }\n")
        + bytes(864),
        "dates": _npy_header(head % ("<M8[D]", "(6, 9, 8)")) + bytes(3456),
        "complex numbers": _npy_header(head % ("<c8", "(6, 9, 8)")) + bytes(3456),
        "an unknown dtype": _npy_header(head % ("<q77", "(6, 9, 8)")) + bytes(864),
        "one axis": _npy_header(head % ("<i2", "(432,)")) + bytes(864),
        "five axes": _npy_header(head % ("<i2", "(1, 1, 6, 9, 8)")) + bytes(864),
        "a version of the future": b"\x93NUMPY\x09\x00" + bytes(200),
        "a header of 4 GiB": b"\x93NUMPY\x02\x00\xff\xff\xff\xff" + bytes(200),
        "NaN voxels": _npy_header(head % ("<f4", "(1, 2, 2)")) + struct.pack("<4f", 1, np.nan, 2, 3),
        "a pickle": pickle.dumps(Runs()),
        "objects": _npy_header("{'descr': '|O', 'fortran_order': False, 'shape': (2, 2), }\n") + pickle.dumps(Runs()),
        "zeros": bytes(300),
        "nothing": b"",
    }
    for what, content in broken.items():
        writer.put("a.npy", content, what)
    return writer.made


def _npz(root: Path, rng: np.random.Generator) -> list[BrokenFile]:
    writer = Writer(root, "npz")
    whole = writer.place("whole.npz")
    np.savez_compressed(whole, image=voxels(rng), spacing_mm=[2.0, 0.8, 0.7])
    writer.damage(whole, rng, header=120, cuts=20, flips=80)

    def zipped(**members: bytes) -> bytes:
        buffer = io.BytesIO()
        with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
            for name, content in members.items():
                archive.writestr(name, content)
        return buffer.getvalue()

    def saved(**values) -> bytes:
        buffer = io.BytesIO()
        np.savez(buffer, **values)
        return buffer.getvalue()

    head = "{'descr': '<i2', 'fortran_order': False, 'shape': %s, }\n"
    objects = _npy_header("{'descr': '|O', 'fortran_order': False, 'shape': (2, 2), }\n") + pickle.dumps(Runs())
    broken = {
        "a huge array": zipped(**{"image.npy": _npy_header(head % "(30000, 30000, 30000)") + bytes(99)}),
        "more claimed than packed": zipped(**{"image.npy": _npy_header(head % "(600, 600, 600)") + bytes(99)}),
        "objects": zipped(**{"image.npy": objects}),
        "no arrays": zipped(),
        "a text": zipped(**{"image.npy": b"hello"}),
        "a name that leads out": zipped(**{"../../image.npy": b"hello"}),
        "two that could be meant": saved(a=voxels(rng), b=voxels(rng)),
        "a spacing of 0": saved(image=voxels(rng), spacing_mm=[0.0, 1, 1]),
        "a negative spacing": saved(image=voxels(rng), spacing_mm=[-1.0, 1, 1]),
        "a NaN spacing": saved(image=voxels(rng), spacing_mm=[np.nan, 1, 1]),
        "a spacing of four": saved(image=voxels(rng), spacing_mm=[1.0, 1, 1, 1]),
        "a spacing of texts": saved(image=voxels(rng), spacing_mm=["a", "b", "c"]),
        "a singular affine": saved(image=voxels(rng), affine=np.zeros((4, 4))),
        "a NaN affine": saved(image=voxels(rng), affine=np.full((4, 4), np.nan)),
        "an affine of 3 x 3": saved(image=voxels(rng), affine=np.eye(3)),
        "infinite voxels": saved(image=np.full((2, 3, 4), np.inf)),
        "nothing": b"",
        "a zip's end alone": b"PK\x05\x06" + bytes(18),
    }
    for what, content in broken.items():
        writer.put("a.npz", content, what)
    bomb = writer.place("a.npz")
    with zipfile.ZipFile(bomb, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        with archive.open("image.npy", "w", force_zip64=True) as member:
            member.write(_npy_header(head % "(700, 1024, 512)"))
            for _ in range(700 * 2**20 // 2**24 + 1):
                member.write(bytes(2**24))
    writer.add(bomb, "a zip bomb")
    return writer.made


def _hdf5(root: Path, rng: np.random.Generator) -> list[BrokenFile]:
    writer = Writer(root, "h5")

    def write(what: str, make, rule: str = FAIL) -> Path:
        path = writer.place("a.h5")
        with h5py.File(path, "w") as file:
            make(file)
        if what:
            writer.add(path, what, rule)
        return path

    whole = write("", lambda file: file.create_dataset("image", data=voxels(rng)))
    writer.damage(whole, rng, header=800, cuts=16, flips=80)
    write("30000^3 voxels", lambda file: file.create_dataset("image", (30000,) * 3, "i2", chunks=(1, 64, 64)))
    write("900 MB", lambda file: file.create_dataset("image", (900, 1000, 1000), "i1", chunks=(1, 64, 64)))
    outside = [("/etc/passwd", 0, 200)]
    write("voxels in /etc/passwd", lambda file: file.create_dataset("image", (10, 20), "i1", external=outside))
    write("voxels in another file", lambda file: file.create_virtual_dataset("image", _layout(whole)))
    write("a link to another file", lambda file: file.__setitem__("image", h5py.ExternalLink(str(whole), "image")))
    write("a link to nowhere", lambda file: file.__setitem__("image", h5py.SoftLink("/nowhere")))
    write("texts", lambda file: file.create_dataset("image", data=np.array([["a", "b"]], dtype=object)))
    write("references", lambda file: file.create_dataset("image", (2, 2), h5py.ref_dtype))
    write("an axis of 0", lambda file: file.create_dataset("image", (4, 0, 5), "i2"))
    write("one number", lambda file: file.create_dataset("image", data=3))
    write("no arrays", lambda file: file.create_group("image"))
    write("NaN voxels", lambda file: file.create_dataset("image", data=np.full((2, 3, 4), np.nan)))
    write("complex numbers", lambda file: file.create_dataset("image", data=np.ones((2, 3, 4), complex)))
    writer.put("a.h5", b"", "nothing")
    writer.put("a.h5", b"\x89HDF\r\n\x1a\n" + bytes(400), "a magic alone")
    return writer.made


def _layout(source: Path) -> h5py.VirtualLayout:
    layout = h5py.VirtualLayout(SHAPE, "i2")
    layout[:] = h5py.VirtualSource(str(source), "image", SHAPE)
    return layout
