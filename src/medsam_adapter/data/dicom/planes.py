"""Where the planes of DICOM images lie, and whether they make one regular grid."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ...errors import DataError
from ..grids import LPS_TO_RAS
from ..kinds import missing_package

if TYPE_CHECKING:
    from pydicom import Dataset

# Headers are rounded: planes may lie so far from the grid that they are read as, yet at most a tenth of a voxel.
PLACE_TOLERANCE_MM = 0.1
_SAME_PLACE_MM = 1e-3
_SAME_DIRECTION = 1e-4
# What tells images in one place apart, the most telling first.
_DIFFERENCES = (
    "TemporalPositionIdentifier", "EchoNumbers", "EchoTime", "DiffusionBValue", "TriggerTime", "AcquisitionNumber",
    "AcquisitionTime", "ImageType", "InstanceNumber",
)  # fmt: skip


@dataclass
class Plane:
    """One frame of a file.

    Attributes:
        file: its path.
        frame: counted from 0.
        position_lps: (3,) centre of its first pixel in LPS mm, None if it has none.
        orientation: (6,) direction of growing columns, then of growing rows; None if it has none.
        pixel_spacing_mm: (y, x), None if it has none.
        thickness_mm: SpacingBetweenSlices or SliceThickness, for a plane without neighbours.
        slope, intercept: stored value * slope + intercept is what it means.
        header: of the file.
    """

    file: str
    frame: int
    position_lps: np.ndarray | None
    orientation: np.ndarray | None
    pixel_spacing_mm: tuple[float, float] | None
    thickness_mm: float | None
    slope: float
    intercept: float
    header: Any

    @property
    def is_placed(self) -> bool:
        return self.position_lps is not None and self.orientation is not None and self.pixel_spacing_mm is not None

    @property
    def place(self) -> tuple[np.ndarray, np.ndarray, tuple[float, float]]:
        """Position, orientation and pixel spacing of a plane that is placed."""
        assert self.position_lps is not None and self.orientation is not None and self.pixel_spacing_mm is not None
        return self.position_lps, self.orientation, self.pixel_spacing_mm

    @property
    def name(self) -> str:
        return Path(self.file).name + (f" frame {self.frame + 1}" if "NumberOfFrames" in self.header else "")


def planes_of(header: Dataset) -> list[Plane]:
    """The frames of one file. Raises DataError for a position, orientation or spacing that is not made of numbers."""
    planes = []
    for frame in range(int(header.get("NumberOfFrames") or 1)):
        groups = _Groups(header, frame)
        spacing = groups.numbers("PixelMeasuresSequence", "PixelSpacing", 2)
        thickness = [
            groups.numbers("PixelMeasuresSequence", word, 1) for word in ("SpacingBetweenSlices", "SliceThickness")
        ]
        slope = groups.numbers("PixelValueTransformationSequence", "RescaleSlope", 1)
        intercept = groups.numbers("PixelValueTransformationSequence", "RescaleIntercept", 1)
        planes.append(
            Plane(
                str(header.filename),
                frame,
                groups.numbers("PlanePositionSequence", "ImagePositionPatient", 3),
                groups.numbers("PlaneOrientationSequence", "ImageOrientationPatient", 6),
                None if spacing is None else (float(spacing[0]), float(spacing[1])),
                next((abs(float(value[0])) for value in thickness if value is not None and value[0]), None),
                1.0 if slope is None else float(slope[0]),
                0.0 if intercept is None else float(intercept[0]),
                header,
            )
        )
    return planes


class _Groups:
    """What is said of one frame: by itself, of all frames together, or (classic images) by the data set."""

    def __init__(self, header: Dataset, frame: int):
        own, shared = header.get("PerFrameFunctionalGroupsSequence"), header.get("SharedFunctionalGroupsSequence")
        self.header = header
        self.groups = [own[frame]] if own and frame < len(own) else []
        self.groups += list(shared[:1]) if shared else []
        # The data set's own position would be that of the first frame only.
        self.is_classic = not self.groups and int(header.get("NumberOfFrames") or 1) == 1

    def numbers(self, sequence: str, keyword: str, count: int) -> np.ndarray | None:
        """(count,) finite numbers, None if they are not given."""
        try:
            value = None
            for group in self.groups:
                if value is None and group.get(sequence):
                    value = group[sequence][0].get(keyword)
            # Of a film all frames share the spacing and the scale, but none has a place.
            if value is None and (
                self.is_classic or keyword not in ("ImagePositionPatient", "ImageOrientationPatient")
            ):
                value = self.header.get(keyword)
            if value is None or value == "" or (hasattr(value, "__len__") and not len(value)):
                return None
            numbers = np.array(value, dtype=np.float64).ravel()
            if numbers.shape == (count,) and np.isfinite(numbers).all():
                return numbers
            found = str(value)
        except (ValueError, TypeError, OverflowError) as error:
            found = str(error)
        raise DataError(
            f"has a {keyword} that is none",
            file=self.header.filename,
            expected=f"{count} numbers",
            found=found,
            hint="the header is damaged: export the file again",
        )


def spacing_between_slices(header: Dataset) -> float | None:
    """The step between the planes of a multi-frame object in mm, as it says itself; None if it does not."""
    value = _Groups(header, 0).numbers("PixelMeasuresSequence", "SpacingBetweenSlices", 1)
    return None if value is None or not value[0] else abs(float(value[0]))


def affine_of(plane: Plane, step_mm: float) -> np.ndarray:
    """(4, 4) voxel (column, row, slice) -> RAS mm of the stack that begins with a plane."""
    try:
        from highdicom.spatial import create_affine_matrix_from_attributes
    except ImportError as error:
        raise missing_package("highdicom", Path(plane.file)) from error
    lps = create_affine_matrix_from_attributes(
        plane.position_lps, plane.orientation, plane.pixel_spacing_mm, spacing_between_slices=step_mm
    )
    return LPS_TO_RAS @ lps


def sorted_planes(planes: list[Plane], path: Path) -> tuple[list[Plane], float]:
    """The planes in order along their normal, rows x columns, and the step between them in mm.

    highdicom's `get_volume_positions` makes the same tests but tells only that one failed, and lets a stack pass that
    leans by up to 2.5 degrees, a centimetre over a long scan.

    Raises:
        DataError: a plane without a place, directions or spacings that differ, two planes in one place, unequal steps,
            a gap, or planes that do not lie above each other (a tilted gantry).
    """
    _refuse_other_directions(planes, path)
    orientation = planes[0].place[1]
    across = np.cross(orientation[:3], orientation[3:])
    normal = across / np.linalg.norm(across)
    planes = sorted(planes, key=lambda plane: plane.place[0] @ normal)
    if len(planes) == 1:
        return planes, planes[0].thickness_mm or 1.0
    positions = np.array([plane.position_lps for plane in planes])
    heights_mm = positions @ normal
    gaps_mm = np.diff(heights_mm)
    if gaps_mm.min() <= _SAME_PLACE_MM:
        _refuse_two_in_one_place(planes, int(gaps_mm.argmin()), int((gaps_mm <= _SAME_PLACE_MM).sum()), path)
    step_mm = float((heights_mm[-1] - heights_mm[0]) / (len(planes) - 1))
    off_mm = heights_mm - (heights_mm[0] + step_mm * np.arange(len(planes)))
    if np.abs(off_mm).max() > min(PLACE_TOLERANCE_MM, step_mm / 10):
        _refuse_gaps(planes, gaps_mm, path)
    sideways = positions - positions[0] - np.outer(heights_mm - heights_mm[0], normal)
    if np.linalg.norm(sideways, axis=1).max() > min(PLACE_TOLERANCE_MM, min(planes[0].place[2]) / 10):
        lean = np.degrees(np.arctan2(np.linalg.norm(sideways[-1]), heights_mm[-1] - heights_mm[0]))
        raise DataError(
            "has slices that do not lie straight above each other",
            file=path,
            expected="positions along the normal of the slices",
            found=f"up to {np.linalg.norm(sideways, axis=1).max():.3g} mm to the side, a lean of {lean:.1f} degrees: "
            "a tilted gantry",
            hint="resample the series first: dcm2niix straightens gantry tilt",
        )
    return planes, step_mm


def _refuse_other_directions(planes: list[Plane], path: Path) -> None:
    lost = [plane.name for plane in planes if not plane.is_placed]
    if lost:
        raise DataError(
            "has images without a place in the patient",
            file=path,
            expected="ImagePositionPatient, ImageOrientationPatient and PixelSpacing in each",
            found=f"{len(lost)} of {len(planes)} without, such as {lost[0]}",
            hint="give single images one by one",
        )
    first = planes[0]
    _, orientation, pixel_spacing_mm = first.place
    rows, columns = orientation[:3], orientation[3:]
    lengths = np.linalg.norm([rows, columns], axis=1)
    if np.abs(lengths - 1).max() > 1e-2 or abs(rows @ columns) > 1e-2 or min(pixel_spacing_mm) <= 0:
        raise DataError(
            "has an orientation or a pixel spacing that is none",
            file=first.file,
            expected="two directions of length 1 at right angles, and sizes above 0 mm",
            found=f"{orientation.tolist()}, {pixel_spacing_mm} mm",
            hint="the header is damaged: export the file again",
        )
    frames_of_reference = {str(plane.header.get("FrameOfReferenceUID") or "") for plane in planes}
    if len(frames_of_reference) > 1:
        raise DataError(
            "has slices of several frames of reference, whose positions cannot be compared",
            file=path,
            expected="one FrameOfReferenceUID",
            found=", ".join(sorted(frames_of_reference)),
            hint="give each its own folder",
        )
    for what, values, tolerance in (
        ("orientations", np.array([plane.place[1] for plane in planes]), _SAME_DIRECTION),
        ("pixel spacings", np.array([plane.place[2] for plane in planes]), _SAME_DIRECTION * pixel_spacing_mm[0]),
    ):
        other = next(
            (n for n, value in enumerate(values) if np.abs(np.subtract(value, values[0])).max() > tolerance), 0
        )
        if other:
            raise DataError(
                f"has slices of different {what}",
                file=path,
                expected=f"{list(map(float, values[0]))} as in {first.name}",
                found=f"{list(map(float, values[other]))} in {planes[other].name}",
                hint="move what does not belong to the stack (scouts, reformats) to a folder of its own",
            )


def _refuse_two_in_one_place(planes: list[Plane], first: int, count: int, path: Path) -> None:
    one, other = planes[first], planes[first + 1]
    differing = next((w for w in _DIFFERENCES if one.header.get(w) != other.header.get(w)), None)
    raise DataError(
        "has two images in one place",
        file=path,
        expected="one image for each position",
        found=f"{one.name} and {other.name} at {_place(one)}" + (f", and {count - 1} more" if count > 1 else ""),
        hint=f"they differ in {differing} ({one.header.get(differing)} and {other.header.get(differing)}): "
        "give each kind a folder of its own"
        if differing
        else "remove the copy",
    )


def _refuse_gaps(planes: list[Plane], gaps_mm: np.ndarray, path: Path) -> None:
    usual = float(np.median(gaps_mm))
    wide = np.flatnonzero(gaps_mm > 1.5 * usual)
    multiples = gaps_mm / usual
    is_missing = len(wide) and np.abs(multiples - np.rint(multiples)).max() < 0.1
    at = int(wide[0]) if is_missing else int(np.abs(gaps_mm - usual).argmax())
    where = f"{gaps_mm[at]:.4g} mm between {_place(planes[at])} ({planes[at].name}) and {_place(planes[at + 1])}"
    missing = int(np.rint(multiples).sum()) - len(gaps_mm)
    raise DataError(
        f"lacks {missing} slice{'s' * (missing > 1)}" if is_missing else "has slices at unequal steps",
        file=path,
        expected=f"steps of {usual:.4g} mm",
        found=where,
        hint="export the whole series again" if is_missing else "resample it first, or split it where the step changes",
    )


def _place(plane: Plane) -> str:
    return "(" + ", ".join(f"{value:g}" for value in plane.place[0]) + ")"
