"""Arrays in NumPy and HDF5 files (.npz, .npy, .h5, .hdf5): which of them is the image, which the label map.

An array is (z, y, x), (y, x) or, with a last axis of 3, colour. Beside it a file may hold, as an array or (HDF5) an
attribute of the file or of the array, `spacing_mm` or `spacing`, in mm in array order (z, y, x), and `affine`, (4, 4)
voxel (i, j, k) -> RAS mm with array[k, j, i].

The .npz files that MedSAM's preprocessing writes (imgs and gts beside spacing) have SimpleITK's order (x, y, z) in
`spacing`, and are read so.
"""

from __future__ import annotations

import tokenize
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import DataError
from .ceiling import refuse_bytes, refuse_cut_off
from .kinds import has_suffix, missing_package, one_line

IMAGE_KEYS = ("image", "img", "imgs", "data", "arr_0")
LABEL_KEYS = ("label", "labels", "gts", "gt", "seg", "mask")
_SURE_IMAGE_KEYS = ("image", "img", "imgs")
_SPACING_KEYS = ("spacing_mm", "spacing")
_GEOMETRY_KEYS = (*_SPACING_KEYS, "affine")
_SPACING_TOLERANCE = 1e-3
# What numpy, zipfile and h5py raise for a file that is damaged: numpy reads its header as a line of Python.
_READ_ERRORS = (
    OSError, ValueError, LookupError, EOFError, TypeError, OverflowError, RuntimeError, SyntaxError,
    tokenize.TokenError, zipfile.BadZipFile, zlib.error,
)  # fmt: skip


def read_arrays(
    path: Path, key: str | None = None, *, is_label: bool = False
) -> tuple[np.ndarray, tuple[float, float, float], np.ndarray | None]:
    """The array (D, H, W) or (D, H, W, 3), spacing (z, y, x) in mm and affine (4, 4) or None of a file.

    Args:
        key: the name of the array. Without it the one array called as in IMAGE_KEYS or, for a label, LABEL_KEYS;
            otherwise the only array that the name does not make the other of the two.
        is_label: look for a label map.

    Raises:
        DataError: damaged, no such array, several that could be meant, pickled objects, another number of axes,
            complex numbers, or a spacing or affine that is none.
    """
    with _opened(path) as (arrays, attributes):
        shapes = {name: (tuple(array.shape), array.dtype) for name, array in arrays.items()}
        name = _chosen(shapes, key, is_label, path)
        array = _loaded(arrays, name, path)
        geometry = {
            wanted: value
            for wanted in _GEOMETRY_KEYS
            if (value := _beside(wanted, name, arrays, attributes, path)) is not None
        }
    array = _three_axes(array, name, path)
    if "imgs" in shapes and "spacing_mm" not in geometry and "spacing" in geometry:  # MedSAM's
        geometry["spacing"] = geometry["spacing"].ravel()[::-1]
    affine = _affine(geometry.get("affine"), path)
    spacing_mm = _spacing(next((geometry[wanted] for wanted in _SPACING_KEYS if wanted in geometry), None), path)
    if affine is not None:
        sizes = tuple(float(size) for size in np.linalg.norm(affine[:3, :3], axis=0)[::-1])
        if spacing_mm is not None and not np.allclose(sizes, spacing_mm, rtol=_SPACING_TOLERANCE):
            raise DataError(
                "has a spacing and an affine that do not agree",
                file=path,
                expected=f"the voxel sizes of the affine, (z, y, x) {sizes} mm",
                found=f"{spacing_mm} mm",
                hint="spacing is in array order, (z, y, x); remove one of the two or mend it",
            )
        spacing_mm = sizes[0], sizes[1], sizes[2]
    return array, spacing_mm or (1.0, 1.0, 1.0), affine


def holds_label(path: Path) -> bool:
    """Whether a file has an array called as a label map beside others; only the names are read.

    Raises:
        DataError: damaged.
    """
    with _opened(path) as (arrays, _):
        return len(arrays) > 1 and any(_last(name) in LABEL_KEYS for name in arrays)


@contextmanager
def _opened(path: Path) -> Iterator[tuple[Mapping[str, Any], Mapping[str, Mapping[str, Any]]]]:
    """{name: array not loaded yet} and, by array name ("" for the file), its attributes."""
    try:
        if has_suffix(path, (".npy",)):
            yield {"arr_0": _NpyFile(path)}, {}
        elif has_suffix(path, (".npz",)):
            with np.load(path, allow_pickle=False) as archive:
                yield {name: _ZipMember(path, name, archive) for name in archive.files}, {}
        else:
            yield from _hdf5(path)
    except DataError:
        raise
    except _READ_ERRORS as error:
        is_pickle = "Object arrays" in str(error)
        raise DataError(
            "holds Python objects instead of numbers" if is_pickle else "cannot be read as arrays",
            file=path,
            expected="a whole .npz, .npy, .h5 or .hdf5 file of plain arrays",
            found=one_line(error),
            hint="save it with numpy.savez(image=..., label=...) of numbers; pickled objects are never loaded"
            if is_pickle
            else "the file may be cut off or renamed: copy it again",
        ) from error


class _NpyFile:
    """The array of an .npy file whose header alone is read until it is asked for."""

    def __init__(self, path: Path):
        self.path = path
        with path.open("rb") as file:
            self.shape, self.dtype = _npy_header(file)
        self.in_file = path.stat().st_size

    def __getitem__(self, index: Any) -> np.ndarray:
        return np.load(self.path, allow_pickle=False)[index]


class _ZipMember:
    """An array of an .npz file whose header alone is read until it is asked for."""

    def __init__(self, path: Path, name: str, archive: Any):
        self.name, self.archive = name, archive
        with zipfile.ZipFile(path) as zipped, zipped.open(f"{name}.npy") as member:
            self.shape, self.dtype = _npy_header(member)
            self.in_file = zipped.getinfo(f"{name}.npy").file_size  # no more of it is unpacked

    def __getitem__(self, index: Any) -> np.ndarray:
        return self.archive[self.name][index]


def _npy_header(file: Any) -> tuple[tuple[int, ...], np.dtype]:
    version = np.lib.format.read_magic(file)
    read_header = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, _, dtype = read_header(file)
    return shape, dtype


def claimed_bytes(path: Path, limit: int | None = None) -> int:
    """What all arrays of a file take, as their headers say; 0 where that cannot be read."""
    try:
        with _opened(path) as (arrays, _):
            headers = sum(_num_bytes(array) for array in arrays.values())
        return max(headers, _zip_bytes(path) if has_suffix(path, (".npz",)) else 0)
    except DataError:
        return _zip_bytes(path) if has_suffix(path, (".npz",)) else 0


def _zip_bytes(path: Path) -> int:
    """What the members of a zip file unpack to, as its list says; Python's reader stops there. 0 if it has none."""
    try:
        with zipfile.ZipFile(path) as archive:
            return sum(member.file_size for member in archive.infolist())
    except (OSError, ValueError, NotImplementedError, zipfile.BadZipFile):
        return 0


def _num_bytes(array: Any) -> int:
    count = array.dtype.itemsize
    for size in array.shape:
        count *= max(int(size), 0)
    return count


def _hdf5(path: Path) -> Iterator[tuple[Mapping[str, Any], Mapping[str, Mapping[str, Any]]]]:
    try:
        import h5py
    except ImportError as error:
        raise missing_package("h5py", path) from error
    with h5py.File(path, "r") as file:
        arrays: dict[str, Any] = {}
        # Visits what this file holds; links to other files are not followed.
        file.visititems(lambda name, item: arrays.update({name: item}) if isinstance(item, h5py.Dataset) else None)
        _refuse_values_elsewhere(arrays, path)
        attributes = {name: dict(array.attrs) for name, array in arrays.items()}
        yield arrays, attributes | {"": dict(file.attrs)}


def _refuse_values_elsewhere(arrays: Mapping[str, Any], path: Path) -> None:
    """An HDF5 array may be a view of any file of the machine (external storage, virtual data sets)."""
    for name, array in arrays.items():
        if array.external or array.is_virtual:
            raise DataError(
                f"has an array '{name}' whose values lie in another file",
                file=path,
                expected="arrays that the file holds itself",
                found="external storage" if array.external else "a virtual data set",
                hint="copy the array into a file of its own: h5py.File(NEW, 'w')['image'] = array[()]",
            )


def _chosen(shapes: dict[str, tuple[tuple[int, ...], np.dtype]], key: str | None, is_label: bool, path: Path) -> str:
    """The name of the array that is meant."""
    possible = [
        name
        for name, (shape, dtype) in shapes.items()
        if len(shape) >= 2 and dtype.kind in "biufcO" and _last(name) not in _GEOMETRY_KEYS
    ]
    listing = ", ".join(f"{name} {shape} {dtype}" for name, (shape, dtype) in shapes.items()) or "no arrays"
    if key is not None:
        if key not in shapes:
            raise DataError(f"has no array '{key}'", file=path, expected="one of its arrays", found=listing)
        return key
    own, others = (LABEL_KEYS, _SURE_IMAGE_KEYS) if is_label else (IMAGE_KEYS, LABEL_KEYS)
    named = [name for name in possible if _last(name) in own]
    candidates = named or [name for name in possible if _last(name) not in others]
    if len(candidates) == 1:
        return candidates[0]
    kind = "label map" if is_label else "image"
    raise DataError(
        f"has {'several arrays' if candidates else 'no array'} that could be the {kind}",
        file=path,
        expected=f"one array called {', '.join(own)}, or only one array",
        found=listing,
        hint=f"name one with key={candidates[0]!r}" if candidates else f"save the {kind} under one of these names",
    )


def _last(name: str) -> str:
    """The name of an array without the HDF5 groups it is in."""
    return name.rpartition("/")[2]


def _loaded(arrays: Mapping[str, Any], name: str, path: Path) -> np.ndarray:
    stored = arrays[name]
    refuse_bytes(path, _num_bytes(stored))
    if hasattr(stored, "in_file") and not stored.dtype.hasobject:
        refuse_cut_off(path, _num_bytes(stored), stored.in_file)
    array = np.asarray(stored[()])
    if array.dtype.kind not in "biuf":
        raise DataError(
            f"has an array '{name}' of no real numbers",
            file=path,
            expected="integers, booleans or floating point numbers",
            found=str(array.dtype),
        )
    return array.astype(np.uint8 if array.dtype == bool else array.dtype.newbyteorder("="), copy=False)


def _beside(
    wanted: str, name: str, arrays: Mapping[str, Any], attributes: Mapping[str, Mapping[str, Any]], path: Path
) -> np.ndarray | None:
    """A value for the array `name`: its attribute, the file's, or an array next to it."""
    for owner in (name, ""):
        if wanted in attributes.get(owner, {}):
            return np.asarray(attributes[owner][wanted])
    sibling = f"{name.rpartition('/')[0]}/{wanted}".lstrip("/")
    found = sibling if sibling in arrays else wanted
    return _loaded(arrays, found, path) if found in arrays else None


def _three_axes(array: np.ndarray, name: str, path: Path) -> np.ndarray:
    is_colour = array.ndim >= 3 and array.shape[-1] == 3
    axes = array.ndim - is_colour
    if axes == 2:
        array = array[None]
    elif axes != 3:
        raise DataError(
            f"has an array '{name}' of other axes",
            file=path,
            expected="(z, y, x), (y, x), or these with a last axis of 3 colours",
            found=f"shape {array.shape}",
            hint="save each volume as an array of its own and choose it with key=...",
        )
    if array.size == 0:
        raise DataError("holds no image", file=path, expected="voxels", found=f"shape {array.shape} of '{name}'")
    return np.ascontiguousarray(array)


def _spacing(value: np.ndarray | None, path: Path) -> tuple[float, float, float] | None:
    if value is None:
        return None
    numbers = value.astype(np.float64).ravel() if value.dtype.kind in "iuf" else np.array([])
    if len(numbers) not in (2, 3) or not np.isfinite(numbers).all() or numbers.min() <= 0:
        raise DataError(
            "has a spacing that is none",
            file=path,
            expected="voxel sizes above 0 mm, (z, y, x) or (y, x)",
            found=str(value.tolist()),
        )
    return (1.0, *numbers.tolist()) if len(numbers) == 2 else tuple(numbers.tolist())


def _affine(value: np.ndarray | None, path: Path) -> np.ndarray | None:
    if value is None:
        return None
    is_affine = value.shape == (4, 4) and value.dtype.kind in "iuf" and np.isfinite(value).all()
    if not is_affine or not np.array_equal(value[3], (0, 0, 0, 1)) or abs(np.linalg.det(value[:3, :3])) < 1e-12:
        raise DataError(
            "has an affine that describes no volume",
            file=path,
            expected="(4, 4) finite numbers, last row 0 0 0 1, three independent axes",
            found=f"shape {value.shape}: {value.tolist()}",
        )
    return value.astype(np.float64)
