"""Reading a scan or its label map from a file or a DICOM folder, and (`write_mask`) writing a mask.

Arrays are (z, y, x) everywhere; see `sample.py` for the frames.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np

from ..errors import DataError
from .ceiling import within_memory
from .grids import GRID_TOLERANCE_MM, grid_offset_mm, onto_grid
from .kinds import (
    ARRAY_SUFFIXES,
    IMAGE_SUFFIXES,
    LOSSY_SUFFIXES,
    META_SUFFIXES,
    NIFTI_SUFFIXES,
    PICTURE_SUFFIXES,
    has_suffix,
    is_dicom_file,
    is_dicom_folder,
    is_nifti,
    is_picture_file,
    is_volume_file,
    stem,
)
from .label_values import as_integers, grey_from_rgb, labels_from_colours, refuse_lossy_values
from .mask_writing import write_mask
from .nifti import read_nifti
from .pictures import read_picture
from .sample import Scan

__all__ = [
    "IMAGE_SUFFIXES", "NIFTI_SUFFIXES", "PICTURE_SUFFIXES", "content_digest", "is_dicom_file", "is_dicom_folder",
    "is_nifti", "is_picture_file", "is_volume_file", "read_label", "read_scan", "stem", "write_mask",
]  # fmt: skip
_DETACHED_SUFFIXES = (".mhd", ".nhdr")  # a header whose voxels lie in another file


def read_scan(
    path: str | Path, *, channel: int | None = None, series: str | None = None, key: str | None = None
) -> Scan:
    """Reads a volume or a picture as it is: no intensity change, no resampling, no reorientation.

    Args:
        path: NIfTI, MetaImage, NRRD, NumPy, HDF5, a PNG, JPEG, TIFF or BMP picture, a DICOM file, or a folder with the
            files of one DICOM series, whatever they are called.
        channel: which volume of a 4-D file, component of a vector image or frame of a DICOM film to take.
        series: SeriesInstanceUID, for a folder that holds several DICOM series.
        key: name of the array, for a NumPy or HDF5 file that holds several.

    Returns:
        array (D, H, W) or (D, H, W, 3) in the file's dtype (DICOM: rescaled, in HU for CT), spacing (z, y, x) in mm,
        affine (None for a picture). `path` is the file or the folder.

    Raises:
        DataError: missing, empty, damaged or too large file (see `ceiling`), unknown suffix, several volumes without
            `channel`, several series without `series`, several arrays without `key`, slices that make no volume, or
            NaN or infinite values.
    """
    path = _existing(path)
    _refuse_unused(path, series, key)
    scan: Scan
    with within_memory(path):
        if path.is_dir() or _is_dicom(path):
            from .dicom.images import read_dicom

            scan = read_dicom(path, series, channel)
        elif has_suffix(path, PICTURE_SUFFIXES):
            scan = Scan(read_picture(path), path=path)
        else:
            scan = Scan(*_read_volume(path, channel, key), path)
        _refuse_not_finite(scan.array, path)
    return scan


def read_label(
    path: str | Path,
    *,
    like: Scan | None = None,
    colours: dict[tuple[int, int, int], int] | None = None,
    threshold: float | None = None,
    key: str | None = None,
) -> np.ndarray:
    """Reads a label map as the integers that the file holds; nothing is guessed or renumbered.

    Args:
        path: as for `read_scan`; also a DICOM SEG, or a folder with one, whose n-th segment is label n.
        like: the scan it belongs to. Both must be the same voxels in space, to 0.01 mm at the corners. Where only the
            order or the direction of the axes differ, the label map is turned onto the grid of `like`, which loses
            nothing. Files without geometry must have its shape.
        colours: {(r, g, b): label} for a mask that codes labels as colours; black is 0 unless it is named.
        threshold: values at or above it become 1, all others 0 (for masks saved as JPEG or as probabilities).
        key: name of the array, for a NumPy or HDF5 file that holds several.

    Returns:
        (D, H, W) integers. A palette picture gives its indices, an RGB mask of three equal channels its grey value.

    Raises:
        DataError: as `read_scan`; also a colour without label, a JPEG with more than two values and no threshold,
            values that are not whole numbers, segments that overlap, or a grid unlike the scan's.
    """
    path = _existing(path)
    _refuse_unused(path, None, key)
    with within_memory(path):
        return _read_label(path, like, colours, threshold, key)


def _read_label(
    path: Path,
    like: Scan | None,
    colours: dict[tuple[int, int, int], int] | None,
    threshold: float | None,
    key: str | None,
) -> np.ndarray:
    affine = None
    if path.is_dir() or _is_dicom(path):
        array, affine = _read_dicom_label(path, like)
    elif has_suffix(path, PICTURE_SUFFIXES):
        array = read_picture(path, keep_indices=colours is None)
    else:
        array, _, affine = _read_volume(path, None, key, is_label=True)
    _refuse_not_finite(array, path)
    if colours is not None:
        array = labels_from_colours(array, colours, path)
    elif array.ndim == 4:
        array = grey_from_rgb(array, path)
    if threshold is not None:
        array = (array >= threshold).astype(np.uint8)
    elif has_suffix(path, LOSSY_SUFFIXES) and colours is None:
        refuse_lossy_values(array, path)
    labels = as_integers(array, path)
    return labels if like is None else _on_grid_of(like, labels, affine, path)


def content_digest(path: str | Path) -> str:
    """SHA-256 of what a file or a DICOM folder holds, as hex: equal for copies, whatever they are called.

    A DICOM folder is the set of its files. For a header whose voxels lie in another file (.mhd, .nhdr) the voxels and
    the geometry are what counts.

    Raises:
        DataError: no such file, or a .mhd or .nhdr that cannot be read.
    """
    path = _existing(path)
    digest = hashlib.sha256()
    if path.is_dir():
        files = [entry for entry in path.iterdir() if entry.is_file() and is_dicom_file(entry)]
        for each in sorted(_file_digest(entry) for entry in files):
            digest.update(each.encode())
        return digest.hexdigest()
    if has_suffix(path, _DETACHED_SUFFIXES):
        from .metaimage import voxels_and_header

        array, text = voxels_and_header(path)
        digest.update(text.encode())
        digest.update(np.ascontiguousarray(array).data)
        return digest.hexdigest()
    return _file_digest(path)


def _file_digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _is_dicom(path: Path) -> bool:
    """.dcm by name, or DICOM by its first bytes where the name says nothing."""
    return is_dicom_file(path) if not has_suffix(path, IMAGE_SUFFIXES) else has_suffix(path, (".dcm",))


def _read_volume(
    path: Path, channel: int | None, key: str | None, is_label: bool = False
) -> tuple[np.ndarray, tuple[float, float, float], np.ndarray | None]:
    if is_nifti(path):
        return read_nifti(path, channel)
    if has_suffix(path, META_SUFFIXES):
        from .metaimage import read_metaimage

        return read_metaimage(path, channel)
    from .arrays import read_arrays

    return read_arrays(path, key, is_label=is_label)


def _read_dicom_label(path: Path, like: Scan | None) -> tuple[np.ndarray, np.ndarray | None]:
    from .dicom.images import read_dicom
    from .dicom.series import segmentation_file

    segmentation = segmentation_file(path)
    if segmentation is None:
        scan = read_dicom(path)
        return scan.array, scan.affine
    from .dicom.segmentation import read_segmentation

    return read_segmentation(segmentation, like)


def _existing(path: str | Path) -> Path:
    path = Path(path)
    suffixes = "a folder with one DICOM series, a DICOM file, or a file that ends in " + ", ".join(IMAGE_SUFFIXES)
    if path.is_dir():
        return path
    if path.is_symlink() and not path.exists():
        raise DataError(
            "is a link to a file that is not there", file=path, expected="a file behind it",
            found=str(path.readlink()), hint="mount or copy the data that it leads to",
        )  # fmt: skip
    if not path.is_file():
        raise DataError(
            "does not exist", file=path, expected=suffixes, found="no such file", hint="check the spelling of the path"
        )
    if path.stat().st_size == 0:
        raise DataError("is empty", file=path, expected="an image", found="0 bytes", hint="copy the file again")
    if not has_suffix(path, IMAGE_SUFFIXES) and not is_dicom_file(path):
        raise DataError(
            "is of a kind that cannot be read here",
            file=path,
            expected=suffixes,
            found=f"'{path.suffix}'" if path.suffix else "no suffix",
            hint="convert it first, with 3D Slicer or SimpleITK, to .nii.gz or .nrrd",
        )
    return path


def _refuse_unused(path: Path, series: str | None, key: str | None) -> None:
    if series is not None and not (path.is_dir() or _is_dicom(path)):
        raise DataError(
            "has no series", file=path, expected="DICOM for a SeriesInstanceUID", found=path.name, hint="leave it out"
        )
    if key is not None and not has_suffix(path, ARRAY_SUFFIXES):
        raise DataError(
            "has no named arrays",
            file=path,
            expected=f"a file that ends in {', '.join(ARRAY_SUFFIXES)} for a key",
            found=path.name,
            hint="leave the key out",
        )


def _refuse_not_finite(array: np.ndarray, path: Path) -> None:
    if not np.issubdtype(array.dtype, np.floating):
        return
    count = array.size - int(np.isfinite(array).sum())
    if count:
        raise DataError(
            "holds values that are not numbers",
            file=path,
            expected="finite values everywhere",
            found=f"{count} of {array.size} values are NaN or infinite",
            hint="replace them, for example with numpy.nan_to_num, and save the file again",
        )


def _on_grid_of(like: Scan, labels: np.ndarray, affine: np.ndarray | None, path: Path) -> np.ndarray:
    if affine is not None and like.affine is not None:
        turned = onto_grid(labels, affine, like.affine, like.shape_zyx)
        if turned is not None:
            return turned
    if labels.shape != like.shape_zyx:
        raise DataError(
            "the label map is not on the grid of its scan",
            file=path,
            expected=f"shape {like.shape_zyx} (z, y, x) as {like.path or 'the scan'}",
            found=f"shape {labels.shape}",
            hint="check that the two belong together; resample the label map (nearest neighbour) if they do",
        )
    if affine is None or like.affine is None:
        return labels
    raise DataError(
        "the label map lies elsewhere in space than its scan",
        file=path,
        expected=f"the affine of {like.path or 'the scan'}, to {GRID_TOLERANCE_MM:g} mm, or the same voxels turned",
        found=f"corners up to {grid_offset_mm(affine, like.affine, like.shape_zyx):.3g} mm apart",
        hint="if the voxels do match, copy the scan's header to the label (fslcpgeom); resample it if they do not",
    )
