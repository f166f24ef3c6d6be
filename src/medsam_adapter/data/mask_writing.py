"""Writing a label map: NIfTI, MetaImage, NRRD, DICOM SEG, or a picture."""

from __future__ import annotations

import io
import os
from pathlib import Path

import numpy as np
from PIL import Image

from ..errors import DataError
from ..writing import naming_write_errors, replacing
from .kinds import (
    DICOM_SUFFIXES,
    PICTURE_MASK_SUFFIXES,
    VOLUME_MASK_SUFFIXES,
    has_suffix,
    is_nifti,
    is_picture_file,
    is_volume_file,
)
from .nifti import save_nifti
from .sample import Scan


def write_mask(path: str | Path, mask_zyx: np.ndarray, like: Scan, names: dict[int, str] | None = None) -> Path:
    """Writes a label map (D, H, W) on the grid of `like`; the file appears whole or not at all.

    The kind of file follows from the name, whatever kind `like` was read from:

    - `.nii.gz`, `.nii`: the geometry of `like` (and of its header where `like.path` still is that file), in the
      smallest integer dtype that holds the labels.
    - `.mha`, `.nrrd`: the same geometry and dtype.
    - `.dcm`: DICOM SEG, a binary segment for each label; only for a `like` from DICOM, see `dicom_seg`.
    - PNG, TIFF and BMP: the values as given, uint8 or uint16 (BMP: uint8), without geometry.

    Args:
        names: {label: name}, kept by DICOM SEG alone.

    Raises:
        DataError: another grid than `like`, not integers, negative labels, values that the format cannot hold, a volume
            written as a picture, a suffix that is lossy or unknown, or a DICOM SEG of what is not from DICOM.
        OutputError: a full disk, or a folder that cannot be written to.
    """
    path, mask_zyx = Path(path), np.asarray(mask_zyx)
    data = _labels_to_write(path, mask_zyx, like)
    is_segmentation = has_suffix(path, DICOM_SUFFIXES)
    if not is_segmentation and not is_volume_file(path):
        _refuse_unfit_picture(path, data)
    dicom = None
    if is_segmentation:
        from .dicom.segmentation_writing import segmentation

        dicom = segmentation(path, data, like, names)  # reads the series: what fails here is no failed write
    with naming_write_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as partial:
        if dicom is not None:
            dicom.save_as(partial)
        elif is_nifti(path):
            is_from_nifti = like.affine is not None and like.path is not None and is_nifti(like.path)
            affine = np.diag([*like.spacing_mm[::-1], 1.0]) if like.affine is None else like.affine
            save_nifti(partial, data, affine, geometry_from=like.path if is_from_nifti else None)
        elif is_volume_file(path):
            from .metaimage import save_metaimage

            save_metaimage(partial, data, like.spacing_mm, like.affine)
        else:
            _save_picture(partial, data[0])
        _flush(partial)  # a name that is there after a power cut is of a whole file
    return path


def _labels_to_write(path: Path, mask_zyx: np.ndarray, like: Scan) -> np.ndarray:
    """The labels in the smallest integer dtype."""
    if mask_zyx.shape != like.shape_zyx:
        raise DataError(
            "the mask is not on the grid of its scan",
            file=path,
            expected=f"shape {like.shape_zyx} (z, y, x)",
            found=f"shape {mask_zyx.shape}",
            hint="map the mask back to the scan's grid before writing it",
        )
    if mask_zyx.dtype != bool and not np.issubdtype(mask_zyx.dtype, np.integer):
        raise DataError(
            "a mask holds labels",
            file=path,
            expected="integers or booleans",
            found=str(mask_zyx.dtype),
            hint="round it",
        )
    lowest, highest = int(mask_zyx.min(initial=0)), int(mask_zyx.max(initial=0))
    if lowest < 0:
        raise DataError("a mask has no negative labels", file=path, expected="0 and above", found=str(lowest))
    return mask_zyx.astype(np.min_scalar_type(highest), copy=False)


def _save_picture(path: Path, labels: np.ndarray) -> None:
    """Pillow writes TIFF and BMP past Python, and takes half a block on a full disk for a whole one: not so here."""
    encoded = io.BytesIO()
    Image.fromarray(labels).save(encoded, Image.registered_extensions()[path.suffix.lower()])
    path.write_bytes(encoded.getbuffer())


def _flush(path: Path) -> None:
    with path.open("rb+") as file:
        os.fsync(file.fileno())


def _refuse_unfit_picture(path: Path, data: np.ndarray) -> None:
    if not is_picture_file(path):
        raise DataError(
            "labels cannot be kept in this kind of file",
            file=path,
            expected=", ".join((*VOLUME_MASK_SUFFIXES, *PICTURE_MASK_SUFFIXES, *DICOM_SUFFIXES)),
            found=path.suffix or "no suffix",
            hint="write masks as .nii.gz (volumes) or .png (pictures)",
        )
    highest, limit = int(data.max(initial=0)), 255 if has_suffix(path, (".bmp",)) else 65535
    if data.shape[0] != 1 or highest > limit:
        raise DataError(
            "this mask does not fit in a picture",
            file=path,
            expected=f"one slice with labels up to {limit}",
            found=f"{data.shape[0]} slices with labels up to {highest}",
            hint="write it as .nii.gz",
        )
