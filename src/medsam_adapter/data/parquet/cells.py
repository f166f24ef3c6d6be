"""One case as the cells of a table: its files byte for byte where they are pictures or NIfTI, converted else."""

from __future__ import annotations

import gzip
import io
from collections.abc import Sequence
from typing import Any

import nibabel as nib
import numpy as np
from PIL import Image

from medsam_adapter.data.io import PICTURE_SUFFIXES, is_nifti
from medsam_adapter.data.layouts import Dataset
from medsam_adapter.data.layouts.parquet import NO_AFFINE
from medsam_adapter.data.sample import Case, Scan
from medsam_adapter.errors import DataError

MAX_FILE_BYTES = 2**31 - 1  # what a cell of an Arrow binary column can hold
_NIFTI_TYPES = ("uint8", "int8", "uint16", "int16", "uint32", "int32", "float32", "float64")
Cells = dict[str, Any]  # {column: {"bytes": ..., "path": ...}, None where there is nothing}


def can_stay(dataset: Dataset, cases: Sequence[Case]) -> bool:
    """Whether the files themselves can be embedded: one image and one label map a case, of kinds that `datasets` knows.

    All of a data set or none: values in a file and values as read must not be mixed in one table.
    """
    reads_files = (
        type(dataset).read_label_file is Dataset.read_label_file
        and type(dataset).read_labels is Dataset.read_labels
        and type(dataset).read_scan is Dataset.read_scan
        and dataset.channel is None
    )
    return reads_files and all(
        not case.channels and not case.raters and _is_known(case.image) and _is_known(case.label) for case in cases
    )


def _is_known(file) -> bool:
    return is_nifti(file) or file.name.lower().endswith(PICTURE_SUFFIXES)


def stored_cells(case: Case) -> Cells:
    """{"image", "label"}: name and bytes of the case's two files.

    Raises:
        DataError: a file of 2 GiB or more.
    """
    cells: Cells = {}
    for column in ("image", "label"):
        file = getattr(case, column)
        size = file.stat().st_size
        if size > MAX_FILE_BYTES:
            raise DataError(
                "is too large for one cell of a table", file=file, expected="at most 2 GiB",
                found=f"{size / 2**30:.1f} GiB", hint="compress it to .nii.gz",
            )  # fmt: skip
        cells[column] = {"bytes": file.read_bytes(), "path": file.name}
    return cells


def converted_cells(dataset: Dataset, case: Case, raters: Sequence[str]) -> Cells:
    """{"image", "label", "label RATER"...}: the scan and its label maps with values 0..K, as NIfTI or as PNG.

    Channels become the fourth axis of the NIfTI file. A rater who did not mark the case has no cell.
    """
    scan = dataset.read_scan(case)
    cells: Cells = {"image": _cell(scan.array, scan, case.case_id)}
    labels = dataset.read_labels(case, scan)
    assert labels is not None  # only cases with a reference are written
    cells["label"] = _cell(_smallest(labels), scan, case.case_id)
    for rater in raters:
        marks = dataset.read_labels(case, scan, rater) if rater in case.raters else None
        cells[rater_column(rater)] = None if marks is None else _cell(_smallest(marks), scan, case.case_id)
    return cells


def rater_column(rater: str) -> str:
    return f"label {rater}"


def _smallest(labels: np.ndarray) -> np.ndarray:
    return labels.astype(np.min_scalar_type(int(labels.max(initial=0))))


def _cell(array: np.ndarray, scan: Scan, name: str) -> dict[str, bytes | str]:
    return _volume(array, scan, name) if scan.is_volume else _picture(array, scan, name)


def _volume(array: np.ndarray, scan: Scan, name: str) -> dict[str, bytes | str]:
    z, y, x = scan.spacing_mm
    # A NIfTI file must say how it lies: x to the left, y to the back, z up, which readers leave as it is by default.
    affine = np.diag([-x, -y, z, 1.0]) if scan.affine is None else scan.affine
    array = array.astype(_nifti_type(array, scan), copy=False)
    volume = nib.Nifti1Image(array.transpose(2, 1, 0, *range(3, array.ndim)), affine)
    volume.header.set_xyzt_units("mm")
    if scan.affine is None:
        volume.header["descrip"] = NO_AFFINE
    return {"bytes": gzip.compress(volume.to_bytes(), compresslevel=6, mtime=0), "path": f"{name}.nii.gz"}


def _nifti_type(array: np.ndarray, scan: Scan) -> np.dtype:
    """A type that NIfTI has and that holds all values."""
    if array.dtype == np.float16:
        return np.dtype(np.float32)
    if array.dtype.name in _NIFTI_TYPES:
        return array.dtype
    if array.dtype.kind in "bui":
        low, high = int(array.min(initial=0)), int(array.max(initial=0))
        for each in (np.uint8, np.int16, np.uint16, np.int32, np.uint32):
            if np.iinfo(each).min <= low and high <= np.iinfo(each).max:
                return np.dtype(each)
    raise _has_no_room(
        array, scan, "a volume", "integers of at most 32 bits, or floating point numbers of 16, 32 or 64"
    )


def _picture(array: np.ndarray, scan: Scan, name: str) -> dict[str, bytes | str]:
    """PNG, or TIFF of 32-bit floating point numbers for grey pictures that are not 8 or 16-bit."""
    pixels, file = array[0], io.BytesIO()
    is_grey = pixels.ndim == 2
    if pixels.dtype == np.uint8 and (is_grey or pixels.shape[2] == 3) or pixels.dtype == np.uint16 and is_grey:
        Image.fromarray(pixels).save(file, "PNG")
        return {"bytes": file.getvalue(), "path": f"{name}.png"}
    as_float = pixels.astype(np.float32)
    is_kept = pixels.dtype.kind == "f" or bool((as_float.astype(pixels.dtype) == pixels).all())
    if not is_grey or not is_kept:
        raise _has_no_room(
            array, scan, "a picture", "8-bit colour, or grey of 8, 16 or at most 24 bits or floating point"
        )
    Image.fromarray(as_float).save(file, "TIFF")
    return {"bytes": file.getvalue(), "path": f"{name}.tif"}


def _has_no_room(array: np.ndarray, scan: Scan, what: str, expected: str) -> DataError:
    shape = "x".join(map(str, array.shape))
    return DataError(
        f"cannot be kept in a table as {what} without changing values", file=scan.path, expected=expected,
        found=f"{array.dtype} from {array.min():g} to {array.max():g}, {shape}",
        hint="convert the images first, or use the data set as it is, without msa data prepare",
    )  # fmt: skip
