"""NIfTI files: voxels as (z, y, x), the affine as it stands in the header, spacing in mm."""

from __future__ import annotations

import gzip
import struct
import zlib
from pathlib import Path

import nibabel as nib
import numpy as np

from ..errors import DataError
from .ceiling import refuse_bytes, refuse_cut_off
from .grids import grid_offset_mm, is_of_a_volume

# Everything nibabel, gzip and numpy raise for a file that is damaged or no NIfTI at all.
_READ_ERRORS = (
    nib.filebasedimages.ImageFileError,
    nib.spatialimages.HeaderDataError,
    nib.wrapstruct.WrapStructError,
    EOFError,
    OSError,
    OverflowError,
    ValueError,
    struct.error,
    zlib.error,
)
# From this size on an unpacked file is mapped into memory rather than read; a smaller one may change meanwhile.
_MAP_FROM_BYTES = 64 * 2**20
_MM_PER_UNIT = {"meter": 1000.0, "micron": 0.001}


def read_nifti(path: Path, channel: int | None = None) -> tuple[np.ndarray, tuple[float, float, float], np.ndarray]:
    """The voxels (D, H, W) or (D, H, W, 3), spacing (z, y, x) in mm and affine (4, 4) to RAS mm of a NIfTI file.

    The on-disk dtype stays unless the header scales the values (float32 then). A header in metres or microns is turned
    to mm; trailing axes of length 1 go. The voxels of a large .nii are mapped into memory (changes stay in memory).

    Args:
        channel: which entry of the fourth axis to take from a 4-D file; None makes a 4-D file an error.

    Raises:
        DataError: damaged, not NIfTI, too large, 4-D without a channel, complex, no voxels, or an affine of no volume.
    """
    claimed = claimed_bytes(path)
    refuse_bytes(path, claimed)
    refuse_cut_off(path, claimed, path.stat().st_size, is_deflated=_is_deflated(path))
    try:
        image = nib.load(path, mmap="c" if claimed >= _MAP_FROM_BYTES else False)
        stored = np.asarray(image.dataobj.get_unscaled())
    except _READ_ERRORS as error:
        raise DataError(
            "cannot be read as NIfTI",
            file=path,
            expected="a whole .nii or .nii.gz file",
            found=f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else 'no message'}",
            hint="the file may be cut off or renamed: copy it again, or open it in a viewer",
        ) from error
    array = _three_axes(stored, path, channel)
    scaling = image.dataobj.slope, image.dataobj.inter
    if scaling == (1.0, 0.0):
        array = np.ascontiguousarray(array, dtype=array.dtype.newbyteorder("="))
    else:
        array = _scaled(array, *scaling)
    affine = np.asarray(image.affine, dtype=np.float64).copy()
    affine[:3] *= mm_per_unit(image.header)
    return array, _spacing_zyx(affine, array.shape, path), affine


def claimed_bytes(path: Path, limit: int | None = None) -> int:
    """Where the voxels of a NIfTI file end, unpacked, as its header says; 0 where that is no header."""
    try:
        with gzip.open(path) if _is_deflated(path) else path.open("rb") as file:
            start = file.read(nib.Nifti2Header.template_dtype.itemsize)
        kind = nib.Nifti2Header if nib.Nifti2Header.may_contain_header(start) else nib.Nifti1Header
        header = kind(start[: kind.template_dtype.itemsize], check=False)
        num_bytes = header.get_data_dtype().itemsize
        for size in header.get_data_shape():  # whole numbers of Python: they do not overflow
            num_bytes *= max(int(size), 0)
        return num_bytes + max(int(header.get_data_offset()), 0)
    except (*_READ_ERRORS, KeyError):  # a data type outside the standard is a KeyError
        return 0


def _scaled(array: np.ndarray, slope: float, intercept: float) -> np.ndarray:
    """float32, slice by slice: nibabel's result is float64, four times an int16 volume."""
    out = np.empty(array.shape, np.float32)
    for z, stored in enumerate(array):
        out[z] = nib.volumeutils.apply_read_scaling(stored, np.float64(slope), np.float64(intercept))
    return out


def _is_deflated(path: Path) -> bool:
    return path.name.lower().endswith(".gz")


def _three_axes(stored: np.ndarray, path: Path, channel: int | None) -> np.ndarray:
    """(i, j, k[, channel]) as stored -> (k, j, i), or (k, j, i, 3) for the RGB dtype."""
    spatial, tail = stored.shape, (3,) if stored.dtype.names else ()
    stored = rgb_last(stored)
    if np.iscomplexobj(stored):
        raise DataError("holds complex numbers", file=path, expected="real voxels", hint="save the magnitude first")
    if stored.size == 0 or len(spatial) < 2:
        raise DataError("holds no image", file=path, expected="2 or 3 axes of voxels", found=f"shape {stored.shape}")
    if len(spatial) == 4 and spatial[3] > 1 and channel is not None:
        if not 0 <= channel < spatial[3]:
            raise DataError(
                "does not have the wanted channel",
                file=path,
                expected=f"a channel from 0 to {spatial[3] - 1}",
                found=str(channel),
            )
        stored, spatial = stored[:, :, :, channel], spatial[:3]
    if any(size > 1 for size in spatial[3:]):
        raise DataError(
            "has more than three axes",
            file=path,
            expected="one volume (x, y, z)",
            found=f"shape {spatial}: {int(np.prod(spatial[3:]))} volumes in one file",
            hint="choose one with channel=0, or split the file (fslsplit, nibabel.four_to_three) into one per volume",
        )
    three = (*spatial, 1)[:3] if len(spatial) < 3 else spatial[:3]
    volume = stored.reshape(three + tail)
    return volume.transpose((2, 1, 0, 3) if tail else (2, 1, 0))


def rgb_last(voxels: np.ndarray) -> np.ndarray:
    """NIfTI's RGB24 and RGBA32, which are records (...), as (..., 3); other voxels as they are."""
    return np.stack([voxels[name] for name in "RGB"], axis=-1) if voxels.dtype.names else voxels


def _spacing_zyx(affine: np.ndarray, shape: tuple[int, ...], path: Path) -> tuple[float, float, float]:
    sizes = nib.affines.voxel_sizes(affine)[::-1]
    # A 2-D file often leaves its third voxel size at 0.
    sizes = [1.0 if shape[axis] == 1 and not sizes[axis] > 0 else float(sizes[axis]) for axis in range(3)]
    # The same goes for its third axis.
    is_space = is_of_a_volume(affine) or (shape[0] == 1 and np.isfinite(affine).all())
    if not is_space or min(sizes) <= 0:
        raise DataError(
            "has an affine that describes no volume",
            file=path,
            expected="finite numbers, voxel sizes above 0 mm and three independent axes",
            found=f"voxel sizes (z, y, x) {tuple(sizes)} mm",
            hint="repair the header (fslcpgeom, or nibabel's set_sform) before using the file",
        )
    return tuple(sizes)


def mm_per_unit(header: nib.Nifti1Header) -> float:
    """Millimetres in one unit of the header's affine; 1 for mm and for 'unknown', which everybody means as mm."""
    try:
        return _MM_PER_UNIT.get(header.get_xyzt_units()[0], 1.0)
    except KeyError:  # a code outside the standard
        return 1.0


def save_nifti(path: Path, array_zyx: np.ndarray, affine: np.ndarray, geometry_from: Path | None = None) -> None:
    """Writes (D, H, W) voxels, not atomically.

    The geometry (voxel sizes, units, qform and sform with their codes) is that of the NIfTI file `geometry_from` where
    it agrees with `affine`; otherwise `affine` becomes both forms, in mm. Descriptions and extensions of that header
    are not copied: they may name a patient.
    """
    data = array_zyx.T
    header = _geometry_header(geometry_from, affine, array_zyx.shape) if geometry_from else None
    if header is not None:
        header.set_data_dtype(data.dtype)
        nib.save(nib.Nifti1Image(data.reshape(header.get_data_shape()), None, header), path)
        return
    image = nib.Nifti1Image(data, affine)
    image.header.set_xyzt_units("mm")
    image.set_sform(affine, code=1)
    # A quaternion cannot hold a shear; the sform alone is exact then.
    axes = affine[:3, :3] / nib.affines.voxel_sizes(affine)
    image.set_qform(affine, code=1 if np.allclose(axes.T @ axes, np.eye(3), atol=1e-4) else 0)
    nib.save(image, path)


def _geometry_header(source: Path, affine: np.ndarray, shape_zyx: tuple[int, ...]) -> nib.Nifti1Header | None:
    try:
        old = nib.load(source).header
    except _READ_ERRORS:
        return None
    best = np.asarray(old.get_best_affine(), dtype=np.float64)
    best[:3] *= mm_per_unit(old)
    # A different number of voxels would move an affine that is only implied (both codes 0).
    if np.prod(old.get_data_shape()) != np.prod(shape_zyx) or grid_offset_mm(best, affine, shape_zyx) > 1e-4:
        return None
    header = nib.Nifti1Header()
    header.set_data_shape(old.get_data_shape())
    for name in ("pixdim", "xyzt_units", "qform_code", "sform_code", "quatern_b", "quatern_c", "quatern_d"):
        header[name] = old[name]
    for name in ("qoffset_x", "qoffset_y", "qoffset_z", "srow_x", "srow_y", "srow_z"):
        header[name] = old[name]
    return header
