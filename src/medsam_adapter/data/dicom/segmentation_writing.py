"""Writing DICOM SEG: a label map as segments that refer to the images of a series."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ... import __version__
from ...errors import DataError
from ..grids import onto_grid
from ..sample import Scan
from .planes import Plane, affine_of, planes_of, sorted_planes
from .segmentation import MAX_SEGMENTS, import_highdicom
from .series import image_headers, sop_class

if TYPE_CHECKING:
    from pydicom import Dataset

# A DICOM text of type LO.
_MAX_LABEL_CHARACTERS = 64
_SERIES_NUMBER = 1000
_MIN_PIXELS = 8  # highdicom 0.28 packs the bits of smaller frames wrongly
# Type 2 of the standard: highdicom wants them to be there, possibly empty.
_MAY_BE_EMPTY = (
    "PatientID", "PatientName", "PatientBirthDate", "PatientSex", "AccessionNumber", "StudyID", "StudyDate",
    "StudyTime",
)  # fmt: skip


def segmentation(path: Path, labels_zyx: np.ndarray, like: Scan, names: dict[int, str] | None = None) -> Dataset:
    """A label map as a binary SEG, label n as segment n, ready to be saved.

    Every number from 1 to the highest label or name becomes a segment, empty ones too, of the general kind Tissue (SCT
    85756007). Patient and study are those of the series, as the standard wants it. UIDs that anonymising has taken away
    are made anew from the files' own, always the same for the same files.

    Args:
        path: what errors call the file that it is meant for.
        like: a scan read from a DICOM series (`like.path`).
        names: {label: name of its segment}, cut to 64 characters.

    Raises:
        DataError: `like` is not from DICOM, its files have changed since, too many segments, or no segment at all.
    """
    highdicom = import_highdicom(path)
    from pydicom.sr.codedict import codes

    highest = max([int(labels_zyx.max(initial=0)), *(names or {})])
    if not 1 <= highest <= MAX_SEGMENTS:
        raise DataError(
            "has no segments" if highest < 1 else "has more segments than DICOM SEG can number",
            file=path,
            expected=f"1 to {MAX_SEGMENTS} labels or names",
            found=str(highest),
            hint="give names={1: 'spleen'} for a mask that may be empty" if highest < 1 else "write it as .nii.gz",
        )
    if labels_zyx[0].size < _MIN_PIXELS:
        raise DataError(
            "is too small a picture for DICOM SEG",
            file=path,
            expected=f"at least {_MIN_PIXELS} pixels in a slice",
            found=str(labels_zyx[0].size),
            hint="write it as .nii.gz",
        )
    sources, frames = _sources(path, labels_zyx, like)
    algorithm = highdicom.AlgorithmIdentificationSequence(
        name="medsam-adapter", version=__version__, family=codes.DCM.ArtificialIntelligence
    )
    segments = [
        highdicom.seg.SegmentDescription(
            segment_number=number,
            segment_label=_label_text((names or {}).get(number, f"label {number}")),
            segmented_property_category=codes.SCT.Tissue,
            segmented_property_type=codes.SCT.Tissue,
            algorithm_type=highdicom.seg.SegmentAlgorithmTypeValues.SEMIAUTOMATIC,
            algorithm_identification=algorithm,
        )
        for number in range(1, highest + 1)
    ]
    return highdicom.seg.Segmentation(
        source_images=sources,
        pixel_array=frames,
        segmentation_type=highdicom.seg.SegmentationTypeValues.BINARY,
        segment_descriptions=segments,
        series_instance_uid=highdicom.UID(),
        series_number=_SERIES_NUMBER,
        sop_instance_uid=highdicom.UID(),
        instance_number=1,
        manufacturer="medsam-adapter",
        manufacturer_model_name="medsam-adapter",
        software_versions=__version__,
        device_serial_number="0",
        content_label="SEGMENTATION",
        series_description="medsam-adapter segmentation",
        omit_empty_frames=bool(frames.any()),
        specific_character_set="ISO_IR 192",  # UTF-8: names may be in any language
    )


def _sources(path: Path, labels_zyx: np.ndarray, like: Scan) -> tuple[Sequence[Dataset], np.ndarray]:
    """The headers of the series, and the label map with frame n belonging to the n-th of them (or of its frames)."""
    if like.path is None or not like.path.exists():
        raise DataError(
            "DICOM SEG refers to the images that it was made on",
            file=path,
            expected="a scan that was read from a DICOM series",
            found=f"{like.path or 'a scan without a file'}",
            hint="write it as .nii.gz",
        )
    headers = image_headers(like.path, getattr(like, "series", None) or None)
    planes = [plane for each in headers for plane in planes_of(each)]
    ordered: np.ndarray | None = labels_zyx
    step_mm = like.spacing_mm[0]
    if like.affine is not None:
        planes, step_mm = sorted_planes(planes, like.path)
        affine = affine_of(planes[0], step_mm)
        size = (len(planes), int(headers[0].Rows), int(headers[0].Columns))
        ordered = onto_grid(labels_zyx, like.affine, affine, size)
    if ordered is None or len(planes) != len(ordered):
        raise DataError(
            "the scan is not on the grid of its files",
            file=like.path,
            expected="the voxels of the series, whatever the order of its axes",
            found=f"{len(planes)} images",
            hint="a resampled scan cannot be written as DICOM SEG: write it as .nii.gz",
        )
    if len(headers) == 1:  # frames in the order of the file
        order = np.argsort([plane.frame for plane in planes])
        return _completed(headers, planes[0], step_mm), ordered[order]
    return _completed([plane.header for plane in planes], planes[0], step_mm), ordered


def _completed(headers: list[Dataset], first: Plane, step_mm: float) -> list[Dataset]:
    """Headers with what highdicom asks for: no empty UIDs, a thickness, and one orientation and spacing to the last
    digit."""
    from pydicom.uid import generate_uid

    for each in headers:
        each.SOPClassUID = sop_class(each)
        own = each.get("SOPInstanceUID") or each.file_meta.get("MediaStorageSOPInstanceUID")
        each.SOPInstanceUID = own or generate_uid(entropy_srcs=[str(each.filename)])
        for keyword in _MAY_BE_EMPTY:
            if keyword not in each:
                setattr(each, keyword, "")
        if not each.get("SliceThickness"):  # the standard lets it be empty
            each.SliceThickness = f"{step_mm:.10g}"
        if each.PatientSex not in ("M", "F", "O"):
            each.PatientSex = ""
    for keyword in ("StudyInstanceUID", "SeriesInstanceUID", "FrameOfReferenceUID"):
        made = generate_uid(entropy_srcs=[keyword, *sorted(str(each.SOPInstanceUID) for each in headers)])
        if keyword == "FrameOfReferenceUID" and not first.is_placed:
            continue
        for each in headers:
            if not each.get(keyword):
                setattr(each, keyword, made)
    for keyword in ("ImageOrientationPatient", "PixelSpacing"):
        for each in headers[1:] if keyword in headers[0] else []:
            setattr(each, keyword, headers[0].get(keyword))
    return headers


def _label_text(name: str) -> str:
    text = " ".join(name.replace("\\", "/").split())
    return text if len(text) <= _MAX_LABEL_CHARACTERS else text[: _MAX_LABEL_CHARACTERS - 3] + "..."
