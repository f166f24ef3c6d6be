"""Reading DICOM SEG: segments on the frames of a series as a label map on the grid of its scan."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ...errors import DataError
from ..ceiling import refuse_bytes
from ..kinds import missing_package, one_line
from ..sample import Scan
from .planes import PLACE_TOLERANCE_MM, Plane, affine_of, planes_of, spacing_between_slices
from .series import damage_told

if TYPE_CHECKING:
    from pydicom import Dataset

MAX_SEGMENTS = 65535


def import_highdicom(path: Path):
    try:
        import highdicom
    except ImportError as error:
        raise missing_package("highdicom", path) from error
    return highdicom


def read_segmentation(path: Path, like: Scan | None = None) -> tuple[np.ndarray, np.ndarray | None]:
    """The label map (D, H, W), segment n as label n, and its affine (4, 4) to RAS mm.

    Args:
        like: the scan whose grid is wanted. Its axes may run otherwise than those of the file, and the file may leave
            out frames that hold nothing. Without it the grid is the smallest that holds the frames of the file.

    Raises:
        DataError: damaged, fractions instead of a binary mask, segments that overlap, frames that do not lie on the
            grid of `like` (to a tenth of a voxel, at most 0.1 mm) or reach beyond it.
    """
    with damage_told(path):
        return _read(path, like)


def _read(path: Path, like: Scan | None) -> tuple[np.ndarray, np.ndarray | None]:
    highdicom = import_highdicom(path)
    try:
        from pydicom.pixels import pixel_array

        seg = highdicom.seg.segread(path)
        # Bytes behind the last frame fill up the file; pydicom would take them for further frames.
        stored = pixel_array(seg, allow_excess_frames=False)
        stored = stored[None] if stored.ndim == 2 else stored
    except Exception as error:  # pydicom and highdicom raise what the damage happens to cause
        raise DataError(
            "cannot be read as DICOM SEG",
            file=path,
            expected="a whole segmentation",
            found=one_line(error),
            hint="the file may be cut off: copy it again",
        ) from error
    kind = str(seg.SegmentationType)
    if kind == "FRACTIONAL":
        raise DataError(
            "is a segmentation of fractions",
            file=path,
            expected="binary segments or a label map",
            found="FRACTIONAL",
            hint="export it as BINARY",
        )
    if kind not in ("BINARY", "LABELMAP"):
        raise DataError("is a segmentation of no known type", file=path, expected="BINARY or LABELMAP", found=kind)
    numbers = [None] * len(stored) if kind == "LABELMAP" else _segment_numbers(seg)
    _refuse_numbers([number for number in numbers if number is not None], path)
    planes = planes_of(seg)
    if len({plane.is_placed for plane in planes}) > 1 or not len(planes) == len(stored) == len(numbers):
        raise DataError(
            "says of some frames what they are, and not of others", file=path,
            expected="a place and a segment for each frame", found=f"{len(stored)} frames, {len(numbers)} segments",
            hint="the header is damaged: export the file again",
        )  # fmt: skip
    if not planes[0].is_placed:
        labels = np.zeros((1, *stored.shape[1:]), np.min_scalar_type(MAX_SEGMENTS))
        if like is not None and like.shape_zyx != labels.shape:
            raise _lies_elsewhere(path, like, f"frames of {stored.shape[1:]} without a place")
        for frame, number in zip(stored, numbers, strict=True):
            _put(labels, (0, *np.nonzero(frame)), frame, number, path)
        return _narrow(labels), None
    affine, shape = (like.affine, like.shape_zyx) if like is not None else _own_grid(planes, stored.shape[1:])
    if affine is None:
        raise DataError(
            "lies in the space of its patient, and the scan does not",
            file=path,
            expected="a scan with an affine",
            found=f"{(like and like.path) or 'a scan'} without one",
            hint="give the DICOM series, or the NIfTI file made of it, as the image",
        )
    refuse_bytes(path, 2 * math.prod(shape))
    labels = np.zeros(shape, np.min_scalar_type(MAX_SEGMENTS))
    for plane, frame, number in zip(planes, stored, numbers, strict=True):
        where = _voxels_of(plane, frame, affine, shape)
        if where is None:
            raise _lies_elsewhere(path, like, f"a frame at {plane.place[0].tolist()} (LPS mm) of {frame.shape}")
        _put(labels, where, frame, number, path)
    return _narrow(labels), affine


def _segment_numbers(seg: Dataset) -> list[int]:
    """The segment that each frame is of."""
    shared = seg.SharedFunctionalGroupsSequence[0].get("SegmentIdentificationSequence")
    return [
        int((groups.get("SegmentIdentificationSequence") or shared)[0].ReferencedSegmentNumber)
        for groups in seg.PerFrameFunctionalGroupsSequence
    ]


def _refuse_numbers(numbers: list[int], path: Path) -> None:
    wrong = [number for number in numbers if not 1 <= number <= MAX_SEGMENTS]
    if wrong:
        raise DataError(
            "has frames of a segment that cannot be", file=path, expected=f"segments from 1 to {MAX_SEGMENTS}",
            found=str(wrong[0]), hint="the header is damaged: export the file again",
        )  # fmt: skip


def _own_grid(planes: list[Plane], frame_shape: tuple[int, int]) -> tuple[np.ndarray, tuple[int, int, int]]:
    first = planes[0]
    orientation = first.place[1]
    normal = np.cross(orientation[:3], orientation[3:])
    heights_mm = np.array([plane.place[0] @ normal for plane in planes])
    gaps_mm = np.diff(np.unique(heights_mm.round(3)))
    step_mm = spacing_between_slices(first.header) or float(gaps_mm.min(initial=np.inf))
    step_mm = step_mm if np.isfinite(step_mm) else 1.0
    depth = int(np.rint(np.ptp(heights_mm) / step_mm)) + 1
    return affine_of(planes[int(heights_mm.argmin())], step_mm), (depth, *frame_shape)


def _voxels_of(
    plane: Plane, frame: np.ndarray, affine: np.ndarray, shape_zyx: tuple[int, int, int]
) -> tuple[np.ndarray, ...] | None:
    """Indices (k, j, i) in a grid of the non-zero pixels of a frame; None if it does not lie on the grid."""
    to_grid = np.linalg.solve(affine, affine_of(plane, 1.0))
    steps, start = np.rint(to_grid[:3, :2]), np.rint(to_grid[:3, 3])
    if not np.array_equal(np.abs(steps).sum(0), (1, 1)) or np.abs(steps).sum(1).max() > 1:
        return None
    corners = np.array([(x, y) for x in (0, frame.shape[1] - 1) for y in (0, frame.shape[0] - 1)]).T
    off = to_grid[:3, :2] @ corners + to_grid[:3, 3:] - (steps @ corners + start[:, None])
    off_mm = np.linalg.norm(affine[:3, :3] @ off, axis=0).max()
    if np.abs(off).max() > 0.1 or off_mm > PLACE_TOLERANCE_MM:
        return None
    rows, columns = np.nonzero(frame)
    voxels = (steps @ np.array([columns, rows]) + start[:, None]).astype(int)
    if voxels.size and ((voxels < 0).any() or (voxels >= np.array(shape_zyx[::-1])[:, None]).any()):
        return None
    return tuple(voxels[::-1])


def _put(labels: np.ndarray, where: tuple, frame: np.ndarray, number: int | None, path: Path) -> None:
    """Writes a frame, of one segment or (None) of label values, where nothing is yet."""
    values = frame[np.nonzero(frame)] if number is None else number
    taken = labels[where]
    if taken.any():
        raise DataError(
            "has segments that overlap",
            file=path,
            expected="each voxel in one segment",
            found=f"{int((taken > 0).sum())} voxels of segment {taken.max()} also in segment {np.max(values)}",
            hint="export the segments to a file each, or as a label map",
        )
    labels[where] = values


def _narrow(labels: np.ndarray) -> np.ndarray:
    return labels.astype(np.min_scalar_type(int(labels.max(initial=0))))


def _lies_elsewhere(path: Path, like: Scan | None, found: str) -> DataError:
    return DataError(
        "the segmentation does not lie on the grid of its scan",
        file=path,
        expected=f"frames within {like.path or 'the scan'}, {like.shape_zyx} (z, y, x)" if like else "parallel frames",
        found=found,
        hint="check that the two belong together; resample the segmentation in 3D Slicer if they do",
    )
