"""DICOM images: the slices of a series as one volume, or a single image.

Where a slice lies is told by ImagePositionPatient, ImageOrientationPatient and PixelSpacing alone (DICOM PS3.3,
C.7.6.2.1.1, https://dicom.nema.org/medical/dicom/current/output/chtml/part03/sect_C.7.6.2.html). SliceThickness and
SpacingBetweenSlices say how thick a slice is or was planned, not where the next one lies, and are used only where
there is no next one.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ...errors import DataError
from ..ceiling import refuse_bytes
from ..kinds import one_line
from ..sample import Scan
from .planes import Plane, affine_of, planes_of, sorted_planes
from .series import damage_told, image_bytes, image_headers

if TYPE_CHECKING:
    from pydicom import Dataset

# Their values are quantities (HU, Bq/ml); MONOCHROME1 is a wish for their display and changes none.
_QUANTITIES = ("CT", "PT", "RTDOSE")


@dataclass
class DicomScan(Scan):
    """A scan with the series that it is from.

    Attributes:
        series: SeriesInstanceUID, "" if the files have none.
    """

    series: str = ""


def read_dicom(path: Path, series: str | None = None, channel: int | None = None) -> DicomScan:
    """Reads a series (a folder), or a single file: one slice, or the frames of a multi-frame image.

    Slices are sorted along the normal of the image plane, rows x columns: array[k, j, i] is column i of row j of the
    k-th slice. RescaleSlope and RescaleIntercept are applied (HU); where both are whole numbers the values stay
    integers (the stored dtype if nothing is rescaled, else int16 or int32), otherwise they are float32. MONOCHROME1
    pictures, in which low is bright, are inverted in the range of their stored bits; CT, PET and dose are not, whose
    values are quantities. Colour is RGB.

    Args:
        series: SeriesInstanceUID, where a folder holds several.
        channel: which frame of a film (frames that have no position) to take.

    Returns:
        a volume with its affine to RAS mm. An image without a position in the patient (a radiograph, a photograph) is
        a picture: affine None, spacing (1, y, x) from PixelSpacing if there is one.

    Raises:
        DataError: no DICOM, several series and none chosen, slices that do not make a regular grid (unequal steps, a
            slice missing, two in one place, other sizes or orientations, a tilted gantry), no pixels, or a damaged
            file.
    """
    with damage_told(path):
        return _read(path, series, channel)


def _read(path: Path, series: str | None, channel: int | None) -> DicomScan:
    headers = image_headers(path, series)
    refuse_bytes(path, sum(map(image_bytes, headers)))
    planes = [plane for each in headers for plane in planes_of(each)]
    _refuse_mixed_kinds(headers, path)
    if len(headers) == 1 and len(planes) > 1 and not any(plane.is_placed for plane in planes):
        planes = [_frame_of_film(planes, path, channel)]
    affine, step_mm, (row_mm, column_mm) = None, 1.0, planes[0].pixel_spacing_mm or (1.0, 1.0)
    if len(planes) > 1 or planes[0].is_placed:
        planes, step_mm = sorted_planes(planes, path)
        affine = affine_of(planes[0], step_mm)
        row_mm, column_mm = planes[0].place[2]
    array = _pixels(planes, headers)
    uid = str(headers[0].get("SeriesInstanceUID") or "")
    return DicomScan(array, (step_mm, row_mm, column_mm), affine, path, uid)


def _refuse_mixed_kinds(headers: list[Dataset], path: Path) -> None:
    for what, keywords in (("sizes", ("Rows", "Columns")), ("kinds", ("SamplesPerPixel", "PhotometricInterpretation"))):
        groups: dict[str, list[str]] = {}
        for each in headers:
            groups.setdefault(" x ".join(str(each.get(word)) for word in keywords), []).append(Path(each.filename).name)
        if len(groups) > 1:
            found = ", ".join(f"{len(names)} of {kind} such as {names[0]}" for kind, names in groups.items())
            raise DataError(
                f"holds images of different {what} in one series",
                file=path,
                expected="slices of one size and kind",
                found=found,
                hint="move what does not belong to the stack (scouts, reformats) to a folder of its own",
            )


def _frame_of_film(planes: list[Plane], path: Path, channel: int | None) -> Plane:
    if channel is None or not 0 <= channel < len(planes):
        raise DataError(
            "is a film, not a volume" if channel is None else "does not have the wanted frame",
            file=path,
            expected="frames with a position in the patient"
            if channel is None
            else f"a frame from 0 to {len(planes) - 1}",
            found=f"{len(planes)} frames without one" if channel is None else str(channel),
            hint="choose one frame with channel=0" if channel is None else None,
        )
    return planes[channel]


def _pixels(planes: list[Plane], headers: list[Dataset]) -> np.ndarray:
    """(D, H, W) or (D, H, W, 3), in the order of the planes; each file is decoded once and one at a time."""
    wanted: dict[str, list[int]] = {}
    for number, plane in enumerate(planes):
        wanted.setdefault(plane.file, []).append(number)
    slices: list[np.ndarray] = [np.empty(0)] * len(planes)
    for each in headers:
        numbers = wanted.get(str(each.filename), [])
        frames = _decoded(Path(each.filename)) if numbers else np.empty(0)
        for number in numbers:
            slices[number] = _rescaled(frames[planes[number].frame], planes[number], each)
    array = np.stack(slices)  # of the narrowest dtype that holds them all
    return array.astype(np.float32) if array.dtype == np.float64 else array


def _decoded(file: Path) -> np.ndarray:
    """(F, H, W) stored values or (F, H, W, 3) RGB of a file."""
    from pydicom import dcmread
    from pydicom.pixels import apply_color_lut, pixel_array

    try:
        dataset = dcmread(file)
        if not any(word in dataset for word in ("PixelData", "FloatPixelData", "DoubleFloatPixelData")):
            raise DataError(
                "has no pixels", file=file, expected="PixelData", found="a header alone", hint="copy the file again"
            )
        array = pixel_array(dataset, allow_excess_frames=False)
        if dataset.PhotometricInterpretation == "PALETTE COLOR":
            array = apply_color_lut(array, dataset)[..., :3]
            array = (array >> 8).astype(np.uint8) if array.dtype == np.uint16 else array
        return array[None] if int(dataset.get("NumberOfFrames") or 1) == 1 else array
    except DataError:
        raise
    except Exception as error:  # pydicom and its decoders raise what the damage happens to cause
        is_codec = "plugins are missing" in str(error) or "NotImplemented" in type(error).__name__
        raise DataError(
            "has pixels that cannot be decoded",
            file=file,
            expected="the whole of its pixels, uncompressed or as JPEG 2000 or RLE",
            found=one_line(error),
            hint="install a decoder (pip install 'medsam-adapter[formats]' pylibjpeg), or decompress with dcmdjpeg"
            if is_codec
            else "the file may be cut off: copy it again",
        ) from error


def _rescaled(stored: np.ndarray, plane: Plane, header: Dataset) -> np.ndarray:
    """The values that a frame means."""
    if stored.ndim == 3:
        return stored
    if "ModalityLUTSequence" in header:
        from pydicom.pixels import apply_modality_lut

        return apply_modality_lut(stored, header)
    slope, intercept = plane.slope, plane.intercept
    if header.PhotometricInterpretation == "MONOCHROME1" and header.get("Modality") not in _QUANTITIES:
        bits, is_signed = int(header.BitsStored), int(header.PixelRepresentation)
        lowest = -(1 << bits - 1) if is_signed else 0
        # lowest + highest of the stored range, minus the value
        intercept += slope * (2 * lowest + (1 << bits) - 1)
        slope = -slope
    if (slope, intercept) == (1, 0):
        return stored
    is_whole = slope == int(slope) and intercept == int(intercept) and max(abs(slope), abs(intercept)) < 2**31
    if stored.dtype.kind not in "iu" or not is_whole:
        return (stored.astype(np.float64) * slope + intercept).astype(np.float32)
    values = stored.astype(np.int64) * int(slope) + int(intercept)
    low, high = int(values.min()), int(values.max())
    for dtype in (np.int16, np.int32):
        if np.iinfo(dtype).min <= low and high <= np.iinfo(dtype).max:
            return values.astype(dtype)
    return values.astype(np.float32)
