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
from medsam_adapter.data.sample import Case, Scan
from medsam_adapter.errors import DataError

MAX_FILE_BYTES = 2**31 - 1  # what a cell of an Arrow binary column can hold
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
    if not scan.is_volume:
        file = io.BytesIO()
        suffix = ".png" if array.dtype in (np.uint8, np.uint16) else ".tif"
        Image.fromarray(array[0] if suffix == ".png" else array[0].astype(np.float32)).save(
            file, "PNG" if suffix == ".png" else "TIFF"
        )
        return {"bytes": file.getvalue(), "path": name + suffix}
    affine = np.diag([*scan.spacing_mm[::-1], 1.0]) if scan.affine is None else scan.affine
    volume = nib.Nifti1Image(array.transpose(2, 1, 0, *range(3, array.ndim)), affine)
    volume.header.set_xyzt_units("mm")
    return {"bytes": gzip.compress(volume.to_bytes(), compresslevel=6, mtime=0), "path": f"{name}.nii.gz"}
