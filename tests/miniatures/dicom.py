"""Small DICOM series, written with pydicom alone: positions, orientations and values as a test wants them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.sequence import Sequence
from pydicom.uid import ExplicitVRLittleEndian, JPEG2000Lossless, generate_uid

AXIAL = (1, 0, 0, 0, 1, 0)
CT, ENHANCED_CT = "1.2.840.10008.5.1.4.1.1.2", "1.2.840.10008.5.1.4.1.1.2.1"
SECONDARY_CAPTURE = "1.2.840.10008.5.1.4.1.1.7"


def uid(*words: object) -> str:
    """The same UID for the same words."""
    return generate_uid(entropy_srcs=[str(word) for word in words])


def image(pixels: np.ndarray, sop_class: str = CT, series: str = "a", **values: object) -> Dataset:
    """A data set of one image, (H, W), (H, W, 3) or (F, H, W), without a place.

    Args:
        series: a word for each series.
        values: attributes by keyword, those of the writer too; None leaves one out.
    """
    dataset = Dataset()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    is_colour = pixels.ndim == 3 and pixels.shape[-1] == 3
    for keyword in ("PatientID", "PatientName", "PatientBirthDate", "PatientSex", "AccessionNumber", "StudyID"):
        setattr(dataset, keyword, "")
    dataset.StudyDate, dataset.StudyTime = "20240102", "030405"
    dataset.Modality = "CT"
    dataset.SOPClassUID, dataset.SOPInstanceUID = sop_class, generate_uid()
    dataset.StudyInstanceUID, dataset.SeriesInstanceUID = uid("study"), uid("series", series)
    dataset.FrameOfReferenceUID = uid("frame of reference")
    dataset.Rows, dataset.Columns = pixels.shape[-3:-1] if is_colour else pixels.shape[-2:]
    if pixels.ndim == 3 and not is_colour:
        dataset.NumberOfFrames = len(pixels)
    dataset.SamplesPerPixel = 3 if is_colour else 1
    if is_colour:
        dataset.PlanarConfiguration = 0
    dataset.PhotometricInterpretation = "RGB" if is_colour else "MONOCHROME2"
    dataset.BitsAllocated = dataset.BitsStored = 8 * pixels.dtype.itemsize
    dataset.HighBit = dataset.BitsStored - 1
    dataset.PixelRepresentation = int(pixels.dtype.kind == "i")
    dataset.PixelData = pixels.tobytes()
    dataset["PixelData"].VR = "OB" if pixels.dtype.itemsize == 1 else "OW"
    for keyword, value in values.items():
        if value is None:
            dataset.pop(keyword, None)
        else:
            setattr(dataset, keyword, value)
    return dataset


def save(dataset: Dataset, path: Path, *, is_compressed: bool = False) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    if is_compressed:
        dataset.compress(JPEG2000Lossless)
    dataset.save_as(path, enforce_file_format=True)
    return path


def affine_ras(position: np.ndarray, orientation: tuple, spacing_mm: tuple[float, float, float]) -> np.ndarray:
    """Voxel (column, row, slice) -> RAS mm by the formula of the standard, from spacing (z, y, x)."""
    rows, columns = np.array(orientation[:3], float), np.array(orientation[3:], float)
    z, y, x = spacing_mm
    affine = np.eye(4)
    affine[:3] = np.column_stack([rows * x, columns * y, np.cross(rows, columns) * z, position])
    return np.diag([-1, -1, 1, 1]) @ affine


def series(
    folder: Path,
    stored: np.ndarray,
    *,
    orientation: tuple = AXIAL,
    spacing_mm: tuple[float, float, float] = (2.0, 0.5, 0.75),
    origin_lps: tuple[float, float, float] = (-10.0, 20.0, -30.0),
    lean_mm: tuple[float, float, float] = (0.0, 0.0, 0.0),
    heights: list[float] | None = None,
    order: list[int] | None = None,
    name: str = "CT.1.2.{}",
    is_compressed: bool = False,
    **values: object,
) -> np.ndarray:
    """Writes a CT series and returns the affine to RAS mm that it should be read with.

    Args:
        stored: (D, H, W[, 3]) values, the first slice at `origin_lps`.
        spacing_mm: (z, y, x).
        lean_mm: added to the position from slice to slice, as a tilted gantry does.
        heights: of each slice, in steps; 0, 1, 2, ... if None.
        order: the numbers that the files get.
        values: see `image`.
    """
    normal = np.cross(orientation[:3], orientation[3:])
    for k, pixels in enumerate(stored):
        height = k if heights is None else heights[k]
        position = np.array(origin_lps) + height * (normal * spacing_mm[0] + np.array(lean_mm))
        number = k if order is None else order[k]
        placed = {
            "ImagePositionPatient": [f"{value:.9g}" for value in position],
            "ImageOrientationPatient": list(orientation),
            "PixelSpacing": list(spacing_mm[1:]),
            "SliceThickness": 7.5,
            "InstanceNumber": number + 1,
            "SOPInstanceUID": uid(values.get("series", "a"), number),
        }
        save(image(pixels, **{**placed, **values}), folder / name.format(number), is_compressed=is_compressed)
    return affine_ras(np.array(origin_lps), orientation, spacing_mm)


def enhanced(path: Path, stored: np.ndarray, heights: list[float], **shared: float) -> np.ndarray:
    """Writes an axial multi-frame CT, frame n at heights[n] steps, and returns the affine of the sorted volume."""
    spacing_mm, origin = (2.0, 0.5, 0.75), np.array([-10.0, 20.0, -30.0])

    def group(keyword: str, **values: object) -> tuple[str, Sequence]:
        item = Dataset()
        for word, value in values.items():
            setattr(item, word, value)
        return keyword, Sequence([item])

    def item(*groups: tuple[str, Sequence]) -> Dataset:
        dataset = Dataset()
        for keyword, sequence in groups:
            setattr(dataset, keyword, sequence)
        return dataset

    dataset = image(stored, ENHANCED_CT)
    dataset.SharedFunctionalGroupsSequence = Sequence(
        [
            item(
                group("PixelMeasuresSequence", PixelSpacing=list(spacing_mm[1:]), SliceThickness=9),
                group("PlaneOrientationSequence", ImageOrientationPatient=list(AXIAL)),
                group("PixelValueTransformationSequence", **{"RescaleSlope": 1, "RescaleIntercept": -1000, **shared}),
            )
        ]
    )
    dataset.PerFrameFunctionalGroupsSequence = Sequence(
        [
            item(group("PlanePositionSequence", ImagePositionPatient=(origin + (0, 0, 2.0 * height)).tolist()))
            for height in heights
        ]
    )
    save(dataset, path)
    return affine_ras(origin + (0, 0, 2.0 * min(heights)), AXIAL, spacing_mm)
