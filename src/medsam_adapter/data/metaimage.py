"""MetaImage (.mha, .mhd) and NRRD (.nrrd, .nhdr) through SimpleITK, which knows space as LPS; affines here are RAS."""

from __future__ import annotations

import errno
import math
import os
import re
from pathlib import Path, PurePosixPath, PureWindowsPath

import numpy as np

from ..errors import DataError
from .ceiling import refuse_bytes
from .grids import LPS_TO_RAS
from .kinds import has_suffix, missing_package, one_line

# No header is so long; what names a file of voxels stands in the header.
_MAX_HEADER_BYTES = 2**20
# Lines of MetaImage that say where the voxels are.
_NUMBERS = re.compile(
    rb"\s*(?:offset|position|origin|elementspacing|elementsize|transformmatrix|rotation|orientation)\s*[=:](.*)",
    re.IGNORECASE,
)
# NRRD's names for the axes of a patient that ITK knows, long and short.
_SPACES = (
    "right-anterior-superior", "ras", "left-anterior-superior", "las", "left-posterior-superior", "lps",
)  # fmt: skip
_UNITS = {"mm", "millimeter", "millimeters", "s", "ms", ""}


def _simpleitk(path: Path):
    try:
        import SimpleITK
    except ImportError as error:
        raise missing_package("SimpleITK", path) from error
    SimpleITK.ProcessObject.SetGlobalWarningDisplay(False)  # what matters arrives as an exception
    return SimpleITK


def read_metaimage(
    path: Path, channel: int | None = None
) -> tuple[np.ndarray, tuple[float, float, float], np.ndarray | None]:
    """The voxels (D, H, W) or (D, H, W, 3), spacing (z, y, x) in mm and affine (4, 4) to RAS mm of a file.

    The dtype stays. Three components of uint8 are colour. A file of two axes is a picture: affine None.

    Args:
        channel: which component of a vector image, or which entry of the fourth axis, to take; None makes both errors.

    Raises:
        DataError: damaged, another kind of file, several channels without `channel`, complex, or no voxels.
    """
    sitk = _simpleitk(path)
    image = _opened(sitk, path)
    array = sitk.GetArrayFromImage(image)  # axes backwards, components last
    axes, components = image.GetDimension(), image.GetNumberOfComponentsPerPixel()
    if np.iscomplexobj(array):
        raise DataError("holds complex numbers", file=path, expected="real voxels", hint="save the magnitude first")
    is_colour = components == 3 and array.dtype == np.uint8 and channel is None
    if components > 1 and not is_colour:
        array = _chosen(array, -1, components, channel, path, "components in each voxel")
    if axes == 4:
        array = _chosen(array, 0, array.shape[0], channel if components == 1 else None, path, "volumes in one file")
    if not array.size:
        raise DataError("holds no image", file=path, expected="voxels", found=f"shape {array.shape}")
    spacing_xyz, direction, origin = image.GetSpacing(), image.GetDirection(), image.GetOrigin()
    numbers = np.array([*spacing_xyz, *direction, *origin])
    if not np.isfinite(numbers).all() or min(spacing_xyz) <= 0:
        raise DataError(
            "has a geometry that describes no volume",
            file=path,
            expected="finite numbers and voxel sizes above 0 mm",
            found=f"spacing {spacing_xyz}, origin {origin}, directions {direction}",
            hint="mend the header",
        )
    if axes == 2:
        return array[None], (1.0, float(spacing_xyz[1]), float(spacing_xyz[0])), None
    lps = np.eye(4)
    lps[:3, :3] = np.reshape(direction, (axes, axes))[:3, :3] * spacing_xyz[:3]
    lps[:3, 3] = origin[:3]
    x_mm, y_mm, z_mm = (float(size) for size in spacing_xyz[:3])
    return array, (z_mm, y_mm, x_mm), LPS_TO_RAS @ lps


def voxels_and_header(path: Path) -> tuple[np.ndarray, str]:
    """All voxels of a file, whatever its channels, and size, dtype and geometry as text; for telling copies.

    Raises:
        DataError: damaged, or another kind of file.
    """
    sitk = _simpleitk(path)
    image = _opened(sitk, path)
    geometry = (image.GetSize(), image.GetPixelIDTypeAsString(), image.GetSpacing(), image.GetOrigin())
    return sitk.GetArrayFromImage(image), str((*geometry, image.GetDirection()))


def claimed_bytes(path: Path, limit: int | None = None) -> int:
    """What the voxels of a file take, as its header says; 0 where that cannot be read."""
    try:
        sitk = _simpleitk(path)
        _check_header(path)
        return _header_bytes(sitk, _reader(sitk, path))
    except (RuntimeError, DataError):
        return 0


def _reader(sitk, path: Path):
    """A reader that has the header of a file, and the voxels not yet."""
    reader = sitk.ImageFileReader()
    # By the name alone: SimpleITK would also try its readers of other kinds of files.
    reader.SetImageIO("NrrdImageIO" if has_suffix(path, (".nrrd", ".nhdr")) else "MetaImageIO")
    reader.SetFileName(str(path))
    reader.ReadImageInformation()
    return reader


def _header_bytes(sitk, reader) -> int:
    kind = sitk.GetPixelIDValueAsString(reader.GetPixelID())  # such as "vector of 16-bit signed integer"
    bits = re.search(r"(\d+)-bit", kind)
    count = (int(bits[1]) // 8 if bits else 8) * (2 if "complex" in kind else 1)
    for size in (*reader.GetSize(), reader.GetNumberOfComponents()):
        count *= int(size)
    return count


def voxel_files(path: Path) -> list[Path]:
    """The files beside a .mhd or .nhdr header that hold its voxels; [] for files that hold their own.

    Raises:
        DataError: a header that cannot be believed.
    """
    return [path.parent / name for name in _check_header(path)]


def _check_header(path: Path) -> list[str]:
    """What ITK does not ask: it reads voxels from any file that a header names, crashes on many axes, and takes a
    word for 0.

    Voxels are taken from files beside or below the header alone, whose names are returned.
    """
    with path.open("rb") as file:
        start = file.read(_MAX_HEADER_BYTES)
    names: list[str] = []
    is_nrrd = has_suffix(path, (".nrrd", ".nhdr"))
    lines = iter(start.replace(b"\r\n", b"\n").split(b"\n"))
    for line in lines:
        if is_nrrd and not line.strip():
            break
        axes = re.match(rb"\s*ndims\s*[=:]\s*(.*)", line, re.IGNORECASE)
        if axes and axes[1].strip() not in (b"2", b"3", b"4"):
            raise DataError(
                "has a number of axes that no image has", file=path, expected="NDims 2, 3 or 4",
                found=axes[1][:40].decode("latin1"), hint="mend the header, or copy the file again",
            )  # fmt: skip
        if is_nrrd:
            _refuse_unknown_space(line.decode("latin1"), path)
        numbers = _NUMBERS.match(line)
        if numbers and not all(map(_is_finite, numbers[1].split())):
            raise DataError(
                "has a geometry that describes no volume", file=path, expected="finite numbers",
                found=line[:80].decode("latin1"), hint="mend the header, or copy the file again",
            )  # fmt: skip
        field = re.match(rb"\s*(?:elementdatafile\s*[=:]|data ?file\s*:)\s*(.*)", line, re.IGNORECASE)
        if not field:
            continue
        value = field[1].strip().decode("utf-8", "replace")
        if value.upper().startswith("LIST"):
            names += [rest.strip().decode("utf-8", "replace") for rest in lines]
        elif value.upper() != "LOCAL":
            names.append(value)
        break
    else:
        if len(start) == _MAX_HEADER_BYTES:
            raise DataError(
                "has a header without an end", file=path, expected=f"a header of at most {_MAX_HEADER_BYTES} bytes",
                found="no end of it", hint="copy the file again",
            )  # fmt: skip
    for name in names:
        if PurePosixPath(name).is_absolute() or PureWindowsPath(name).anchor or ".." in re.split(r"[\\/]", name):
            raise DataError(
                "takes its voxels from another folder",
                file=path,
                expected="the name of a file beside the header",
                found=name[:200],
                hint="put the file with the voxels beside the header and write its bare name there",
            )
    return names


def _refuse_unknown_space(line: str, path: Path) -> None:
    """ITK takes every space but RAS and LAS for LPS, and every unit for mm."""
    space = re.match(r"\s*space\s*:\s*(.*)", line, re.IGNORECASE)
    if space and space[1].strip().lower() not in _SPACES:
        raise DataError(
            "does not say where the patient lies", file=path, expected="space: " + ", ".join(_SPACES[1::2]),
            found=line.strip()[:80], hint="write the axes of the patient into the header, or convert it in 3D Slicer",
        )  # fmt: skip
    units = re.match(r"\s*space units\s*:\s*(.*)", line, re.IGNORECASE)
    if units and not set(re.findall(r'"([^"]*)"', units[1].lower())) <= _UNITS:
        raise DataError(
            "is not in mm", file=path, expected='space units: "mm" "mm" "mm"', found=line.strip()[:80],
            hint="turn directions and origin of the header into mm",
        )  # fmt: skip


def _is_finite(word: bytes) -> bool:
    try:
        return math.isfinite(float(word))
    except ValueError:
        return False


def _opened(sitk, path: Path):
    _check_header(path)
    try:
        reader = _reader(sitk, path)
        refuse_bytes(path, _header_bytes(sitk, reader))
        return reader.Execute()
    except RuntimeError as error:
        raise DataError(
            "cannot be read as MetaImage or NRRD",
            file=path,
            expected="a whole .mha, .mhd, .nrrd or .nhdr file, and beside a .mhd or .nhdr the file with its voxels",
            found=_last_words(error),
            hint="the file may be cut off or renamed: copy it again, or open it in 3D Slicer",
        ) from error


def _chosen(array: np.ndarray, axis: int, count: int, channel: int | None, path: Path, what: str) -> np.ndarray:
    if count == 1:
        return array.take(0, axis=axis)
    if channel is None:
        hint = "choose one with channel=0, or save each as a file of its own"
        if path.name.lower().endswith(".seg.nrrd"):
            hint = "its segments overlap: in 3D Slicer export them as a labelmap, or collapse them to one layer"
        raise DataError(
            "has more than one channel", file=path, expected="one volume", found=f"{count} {what}", hint=hint
        )
    if not 0 <= channel < count:
        raise DataError(
            "does not have the wanted channel",
            file=path,
            expected=f"a channel from 0 to {count - 1}",
            found=str(channel),
        )
    return np.ascontiguousarray(array.take(channel, axis=axis))


def save_metaimage(path: Path, array_zyx: np.ndarray, spacing_mm: tuple[float, ...], affine: np.ndarray | None) -> None:
    """Writes (D, H, W) voxels compressed, not atomically; without an affine only the spacing goes along.

    Raises:
        OSError: the file is not whole, on a full disk, say; what is there of it is of no use.
    """
    sitk = _simpleitk(path)
    image = sitk.GetImageFromArray(np.ascontiguousarray(array_zyx))
    image.SetSpacing([float(size) for size in spacing_mm[::-1]])
    if affine is not None:
        lps = LPS_TO_RAS @ affine
        sizes = np.linalg.norm(lps[:3, :3], axis=0)
        image.SetSpacing(sizes.tolist())
        image.SetDirection((lps[:3, :3] / sizes).ravel().tolist())
        image.SetOrigin(lps[:3, 3].tolist())
    try:
        sitk.WriteImage(image, str(path), useCompression=True)
        is_whole = path.stat().st_size > 0 and _holds(sitk, path, array_zyx)  # ITK prints what it says of empty files
    except RuntimeError as error:
        raise _reason_of_loss(path, array_zyx, _last_words(error)) from error
    if not is_whole:
        raise _reason_of_loss(path, array_zyx, "what was written is not there")


def _holds(sitk, path: Path, array_zyx: np.ndarray) -> bool:
    image = _reader(sitk, path).Execute()
    return np.array_equal(sitk.GetArrayViewFromImage(image), array_zyx)


def _reason_of_loss(path: Path, array_zyx: np.ndarray, otherwise: str) -> OSError:
    """ITK says nothing of what it could not write of a small file, and of larger ones not why: Python is asked."""
    try:
        with path.open("wb") as file:
            file.write(np.ascontiguousarray(array_zyx).data)
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        return error
    return OSError(errno.EIO, otherwise)


def _last_words(error: RuntimeError) -> str:
    """The end of what ITK says: the beginning names its own source files, and its reason is a left-over errno."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip() and not line.startswith("Reason:")]
    return lines[-1] if lines else one_line(error)
