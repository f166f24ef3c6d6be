"""Which file can hold the mask of a scan."""

from __future__ import annotations

from pathlib import Path


def check_output(output: Path, scan) -> None:
    """Refuses, before anything is encoded, a file that cannot hold the mask of this scan."""
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
