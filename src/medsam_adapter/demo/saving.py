"""Files for the visitor to keep, written in the folder of the visitor's own."""

from __future__ import annotations

import re
from pathlib import Path

from PIL import Image

from medsam_adapter.data.dicom.images import DicomScan
from medsam_adapter.data.io import stem, write_mask
from medsam_adapter.demo.rendering import render
from medsam_adapter.demo.viewer import layers_on, slice_picture
from medsam_adapter.demo.workspace import Workspace
from medsam_adapter.errors import DataError


def save_mask(space: Workspace) -> Path:
    """The label map on the scan's own grid: .nii.gz with the affine of a volume, .png of a picture.

    One object of a picture is black and white, several are their numbers, as `msa predict` writes them.
    """
    labels, scan = _labels(space), space.opened()
    if scan.is_volume:
        return write_mask(_file(space, "mask.nii.gz"), labels, scan)
    return write_mask(_file(space, "mask.png"), labels * 255 if len(space.objects) == 1 else labels, scan)


def save_segmentation(space: Workspace) -> Path:
    """DICOM SEG, a segment for each object, which refers to the images that were opened.

    Raises:
        DataError: the scan is not DICOM.
    """
    if not isinstance(space.opened(), DicomScan):
        raise DataError("DICOM SEG refers to DICOM images", expected="a DICOM series", found=space.scan_name)
    names = {value: each.thing.name for value, each in enumerate(space.objects, 1)}
    return write_mask(_file(space, "mask.dcm"), _labels(space), space.opened(), names)


def save_picture(space: Workspace, plane: str) -> Path:
    """PNG of the slice that a plane shows, with masks and prompts as on the screen."""
    picture = screen_picture(space, plane)
    file = _file(space, f"{plane}_{space.at[plane] + 1}.png")
    picture.save(file)
    return file


def screen_picture(space: Workspace, plane: str) -> Image.Image:
    """The slice that a plane shows, with masks and prompts."""
    aspect = space.plane(plane).pixel_aspect
    return render(slice_picture(space, plane), layers_on(space, plane), aspect, space.opacity, space.style)


def save_session(space: Workspace) -> Path:
    """The session.json for `msa predict --session`."""
    space.opened()
    return space.session().save(_file(space, "session.json"))


def _labels(space: Workspace):
    labels = space.labels()
    if not labels.any():
        raise DataError("there is no mask yet", expected="an object with a mask", found="none", hint="click into it")
    return labels


def _file(space: Workspace, ending: str) -> Path:
    """A file in the visitor's folder, named after the scan."""
    name = re.sub(r"[^A-Za-z0-9._-]+", "_", stem(space.scan_name) or "scan").strip("._")[:60] or "scan"
    folder = space.folder / "saved"
    folder.mkdir(exist_ok=True)
    return folder / f"{name.removesuffix('.zip')}_{ending}"
