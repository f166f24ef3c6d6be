"""The three planes of a volume as a radiologist looks at them, and where a pixel of a plane lies in the file.

Axial: the patient's right is on the left, front is up. Coronal: right on the left, head up. Sagittal: front on the
left, head up. A volume without an affine is taken to lie like that already. A picture has one plane, its own.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from medsam_adapter.data.geometry import Turn
from medsam_adapter.data.sample import Scan
from medsam_adapter.inference.prompts_by_slice import by_slice
from medsam_adapter.prompts.types import ObjectPrompt

PLANES = ("axial", "coronal", "sagittal")
_CODES = {"axial": "LPS", "coronal": "LIP", "sagittal": "PIL"}
_LPS = np.diag([-1.0, -1.0, 1.0, 1.0])
_OPPOSITE = dict(zip("LRPASI", "RLAPIS", strict=True))


@dataclass(frozen=True)
class Plane:
    """One way of slicing a scan.

    Attributes:
        name: "axial", "coronal", "sagittal", or "picture".
        turn: file frame <-> this plane's frame, whose z counts the slices.
        spacing_mm: (z, y, x) in this plane's frame.
        edges: what lies at the left, right, top and bottom: "R", "L", "A", "P", "S" or "I"; empty if unknown.
    """

    name: str
    turn: Turn
    spacing_mm: tuple[float, float, float]
    edges: dict[str, str]

    @property
    def num_slices(self) -> int:
        return self.shape_zyx[0]

    @property
    def shape_zyx(self) -> tuple[int, int, int]:
        shape = [0, 0, 0]
        for axis, (target, _) in enumerate(self.turn.orientation):
            shape[target] = self.turn.shape_ijk[axis]
        x, y, z = shape
        return z, y, x

    @property
    def slicing_axis(self) -> int:
        """The axis (0 i, 1 j, 2 k) of the file along which the slices follow each other."""
        return _slicing_axis(self.turn)

    def slice_of(self, array_file: np.ndarray, index: int) -> np.ndarray:
        """(H, W) or (H, W, 3) of this plane, from an array (D, H, W, ...) of the file; a view."""
        return self.turn.array_to_source(array_file)[index]

    def to_file(self, x: float, y: float, index: int) -> tuple[float, float, float]:
        """A pixel of this plane as a voxel (i, j, k) of the file, whole numbers."""
        i, j, k = (float(v) for v in np.rint(self.turn.points_to_file((x, y, index))))
        return i, j, k

    def from_file(self, point_xyz) -> np.ndarray:
        """A voxel (i, j, k) of the file as (x, y, slice) of this plane."""
        return self.turn.points_to_source(point_xyz)

    def prompts_on(self, index: int, prompt: ObjectPrompt) -> tuple[list, list[int], list]:
        """(points_xy, labels, boxes_xyxy) of an object on a slice of this plane, in its pixels."""
        here = by_slice(self.turn, prompt).get(index, ObjectPrompt())
        points = [tuple(self.from_file(point)[:2].tolist()) for point in here.points]
        boxes = []
        for box in here.boxes:
            corners = np.array([self.from_file(box[:3]), self.from_file(box[3:])])
            if corners[0, 2] == corners[1, 2]:  # seen from the side it is a line
                boxes.append((*corners.min(0)[:2].tolist(), *corners.max(0)[:2].tolist()))
        return points, here.labels, boxes

    @property
    def pixel_aspect(self) -> float:
        """Height of a pixel as a multiple of its width."""
        return self.spacing_mm[1] / self.spacing_mm[2]


def planes_of(scan: Scan) -> dict[str, Plane]:
    """{name: plane}; a picture has one, "picture"."""
    shape_ijk = scan.shape_zyx[::-1]
    if not scan.is_volume:
        return {"picture": Plane("picture", Turn.none(shape_ijk), scan.spacing_mm, {})}
    affine = _LPS if scan.affine is None else scan.affine
    planes = {}
    for name, codes in _CODES.items():
        turn = Turn.to_codes(affine, shape_ijk, codes)
        right, bottom = codes[0], codes[1]
        edges = {"right": right, "left": _OPPOSITE[right], "bottom": bottom, "top": _OPPOSITE[bottom]}
        known = edges if scan.affine is not None else {}
        planes[name] = Plane(name, turn, turn.spacing_to_source(scan.spacing_mm), known)
    return planes


def plane_sliced_like(turn: Turn, planes: dict[str, Plane]) -> Plane | None:
    """The plane whose slices are those of another source frame, such as a model's."""
    axis = _slicing_axis(turn)
    return next((plane for plane in planes.values() if plane.slicing_axis == axis), None)


def _slicing_axis(turn: Turn) -> int:
    return next(axis for axis, (target, _) in enumerate(turn.orientation) if target == 2)
