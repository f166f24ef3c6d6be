"""The XML files of LIDC-IDRI: which pixels a reader enclosed.

LidcReadMessage (namespace http://www.nih.gov) > readingSession, one a reader > unblindedReadNodule > roi, one a slice:
imageZposition in mm, inclusion TRUE, or FALSE for a hole, and edgeMap points xCoord, yCoord: column and row of the
DICOM image, from 0. A nodule below 3 mm is a single point. Chest X-rays have IdriReadMessage instead.

A contour runs through the first pixels outside of what it encloses ("outer border": McNitt-Gray et al., Acad. Radiol.
14 (2007), doi:10.1016/j.acra.2007.07.021), so its own pixels do not belong to the nodule, and those of a hole's contour
do. pylidc, the library that most papers use, tests which pixel centres lie within the polygon, and so comes to the same
but for the pixels on the line, which it leaves to rounding.
"""

from __future__ import annotations

import re
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw
from scipy.ndimage import binary_fill_holes

from ...errors import DataError
from ..sample import Scan

_HEAD_BYTES = 4096


def is_xray_reading(file: Path) -> bool:
    """Whether an XML file is the reading of a chest X-ray, by its first element."""
    with file.open("rb") as stream:
        return b"<IdriReadMessage" in stream.read(_HEAD_BYTES)


def num_sessions(file: Path) -> int:
    """How many readers there are; at least 1, so that a damaged file is met when it is read."""
    return max(1, len(re.findall(rb"<readingSession[\s>]", file.read_bytes())))


def draw_session(file: Path, session: int, like: Scan) -> np.ndarray:
    """What one reader marked.

    Args:
        session: number of the reader, from 0.
        like: the scan, axial, array[k, row, column] of the DICOM images.

    Returns:
        (D, H, W) uint8, 1 inside a nodule of 3 mm or more.

    Raises:
        DataError: damaged, no LIDC reading, or a contour that lies on no slice or outside the image.
    """
    sessions = _root(file).findall("{*}readingSession")
    if session >= len(sessions):
        raise DataError(
            "holds no reading", file=file, expected=f"a readingSession number {session + 1}",
            found=f"{len(sessions)}", hint="copy the file again",
        )  # fmt: skip
    labels = np.zeros(like.shape_zyx, np.uint8)
    for nodule in sessions[session].findall("{*}unblindedReadNodule"):
        outlines = [_outline(roi, file, like) for roi in nodule.findall("{*}roi")]
        mask: dict[int, np.ndarray] = {}
        for inclusion in (True, False):  # holes after what they are in
            for index, points_xy, is_included in outlines:
                if is_included is inclusion:
                    _draw(mask.setdefault(index, np.zeros(labels.shape[1:], bool)), points_xy, inclusion)
        for index, pixels in mask.items():
            labels[index][pixels] = 1
    return labels


def _root(file: Path) -> ElementTree.Element:
    try:
        root = ElementTree.parse(file).getroot()
    except (ElementTree.ParseError, OSError, ValueError) as error:
        raise DataError(
            "cannot be read as XML", file=file, expected="a whole LidcReadMessage", found=str(error),
            hint="the file may be cut off: copy it again",
        ) from error  # fmt: skip
    if not root.tag.endswith("LidcReadMessage"):
        raise DataError("is no reading of a CT", file=file, expected="LidcReadMessage", found=root.tag)
    return root


def _outline(roi: ElementTree.Element, file: Path, like: Scan) -> tuple[int, np.ndarray, bool]:
    """Slice, points (N, 2) as (x, y), and whether they enclose a nodule or a hole in one."""
    try:
        z_mm = float(roi.findtext("{*}imageZposition", ""))
        points = [(int(edge.findtext("{*}xCoord", "")), int(edge.findtext("{*}yCoord", "")))
                  for edge in roi.findall("{*}edgeMap")]  # fmt: skip
        is_included = {"TRUE": True, "FALSE": False}[roi.findtext("{*}inclusion", "").strip().upper()]
    except (ValueError, KeyError) as error:
        raise DataError(
            "has a contour that cannot be read",
            file=file,
            expected="imageZposition, inclusion TRUE or FALSE, and edgeMap with xCoord and yCoord",
            found=f"{type(error).__name__}: {error}",
            hint="copy the file again",
        ) from error
    points_xy = np.array(points, int).reshape(-1, 2)
    depth, height, width = like.shape_zyx
    if like.affine is None or not np.isclose(abs(like.affine[2, 2]), like.spacing_mm[0], rtol=1e-3):
        raise DataError(
            "does not consist of axial slices, which the contours are drawn on", file=like.path,
            expected="a series of axial CT images", found="slices of another orientation",
        )  # fmt: skip
    index = round((z_mm - like.affine[2, 3]) / like.affine[2, 2])  # the nearest slice: z is printed with few digits
    if not 0 <= index < depth:
        ends = sorted((like.affine[2, 3], like.affine[2, 3] + like.affine[2, 2] * (depth - 1)))
        raise DataError(
            "has a contour that lies on no slice",
            file=file,
            expected=f"imageZposition from {ends[0]:g} to {ends[1]:g} mm, as the slices of {like.path}",
            found=f"{z_mm:g} mm",
            hint="the XML file belongs to another series, or slices are missing",
        )
    if len(points_xy) and not (0 <= points_xy.min() and (points_xy < (width, height)).all()):
        raise DataError(
            "has a contour outside the image",
            file=file,
            expected=f"x below {width} and y below {height}",
            found=f"x from {points_xy[:, 0].min()} to {points_xy[:, 0].max()}, "
            f"y from {points_xy[:, 1].min()} to {points_xy[:, 1].max()}",
            hint="the XML file belongs to another series",
        )
    return index, points_xy, is_included


def _draw(mask: np.ndarray, points_xy: np.ndarray, value: bool) -> None:
    """Sets what a contour encloses, its own pixels left out, in a mask (H, W)."""
    if len(points_xy) < 3:
        return
    first, last = points_xy.min(0), points_xy.max(0)
    width, height = (int(size) for size in last - first + 1)
    line = Image.new("1", (width, height))
    chain = [tuple(point) for point in (points_xy - first).tolist()]
    ImageDraw.Draw(line).line([*chain, chain[0]], fill=1)
    outline = np.asarray(line)
    inside = binary_fill_holes(outline) & ~outline
    mask[first[1] : last[1] + 1, first[0] : last[0] + 1][inside] = value
