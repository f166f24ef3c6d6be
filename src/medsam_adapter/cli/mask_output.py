"""Which file can hold the mask of a scan, and what must not be written over."""

from __future__ import annotations

import os
from pathlib import Path

from medsam_adapter.cli.output_folder import check_folder


def check_output(output: Path, scan, overlay: Path | None = None) -> None:
    """Refuses, before anything is encoded, files that cannot be written or that would take the place of the scan.

    Args:
        overlay: the PNG that is wanted beside the mask.

    Raises:
        PromptError: a file that cannot hold the mask of this scan.
        OutputError: the scan itself or a place among its DICOM files, mask and overlay in one file, an overlay that is
            no PNG, a folder, or a place that cannot be written to.
    """
    from medsam_adapter.errors import OutputError

    _check_kind(output, scan)
    _check_place(output, scan.path)
    if overlay is None:
        return
    if overlay.suffix.lower() != ".png":
        raise OutputError("the overlay is a PNG", file=overlay, expected=".png", found=overlay.suffix or "no suffix")
    _check_place(overlay, scan.path)
    if is_same_place(output, overlay):
        raise OutputError("mask and overlay are one file", file=overlay, expected="a file for each")


def is_same_place(one: Path, other: Path) -> bool:
    """Whether two names are of one file, there or to be written: links and ".." are followed."""
    if os.path.realpath(one) == os.path.realpath(other):
        return True
    return one.exists() and other.exists() and one.samefile(other)


def _check_kind(output: Path, scan) -> None:
    from medsam_adapter.data.io import is_dicom_file, is_dicom_folder, is_picture_file, is_volume_file
    from medsam_adapter.errors import PromptError

    is_dicom = is_dicom_file(scan.path) or is_dicom_folder(scan.path)
    fits = is_volume_file(output) if scan.is_volume else is_picture_file(output)
    if fits or (output.suffix.lower() == ".dcm" and is_dicom):
        return
    kinds = ".nii.gz, .nii, .mha or .nrrd" if scan.is_volume else ".png, .tif or .bmp"
    raise PromptError(
        f"the output cannot hold the mask of a {'volume' if scan.is_volume else 'picture'}",
        file=output,
        expected=kinds + (", or .dcm for DICOM SEG" if is_dicom else ""),
        found=output.suffix or "no suffix",
        hint=None if is_dicom or output.suffix.lower() != ".dcm" else "DICOM SEG refers to DICOM images, not to others",
    )


def _check_place(file: Path, scan_path: Path) -> None:
    from medsam_adapter.errors import OutputError

    if is_same_place(file, scan_path):
        raise OutputError("would take the place of the scan", file=file, expected="a file of its own")
    if scan_path.is_dir() and is_same_place(file.parent, scan_path):
        raise OutputError("would lie among the files of the scan", file=file, expected="another folder")
    if file.is_dir():
        raise OutputError("is a folder", file=file, expected="the name of a file")
    check_folder(file.absolute().parent)
