"""What a reader returns: the scan, and the scan with its label map.

Frames (used everywhere): arrays are (z, y, x); a point is (x, y, z) in voxels of that array; `spacing_mm` is in array
order (z, y, x). A picture is a volume of one slice.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np


@dataclass
class Scan:
    """One picture or volume as it was read: no intensity change, no resampling, no reorientation.

    Attributes:
        array: (D, H, W) grey, (D, H, W, 3) colour or (D, H, W, C) channels such as MRI sequences, in the file's own
            dtype and scale (HU for CT). NIfTI voxel (i, j, k) is array[k, j, i], so a point (x, y, z) is the voxel (i,
            j, k) of the file. A picture has D == 1.
        spacing_mm: voxel size (z, y, x) in mm; (1, 1, 1) for a picture, whose file knows none.
        affine: (4, 4) voxel (i, j, k) -> RAS mm as in the NIfTI header; None for a picture.
        path: where it was read from.
    """

    array: np.ndarray
    spacing_mm: tuple[float, float, float] = (1.0, 1.0, 1.0)
    affine: np.ndarray | None = None
    path: Path | None = None

    @property
    def is_volume(self) -> bool:
        return self.affine is not None or self.array.shape[0] > 1

    @property
    def shape_zyx(self) -> tuple[int, int, int]:
        return tuple(self.array.shape[:3])


@dataclass
class Case:
    """Where one case of a data set lies, before anything is read.

    Attributes:
        case_id: unique in the data set; file names of results are made from it.
        image: the image file.
        label: the label map; None for a case without one.
        patient_id: cases of one patient never stand on both sides of a split; defaults to `case_id`.
        channels: further image files on the grid of `image`, which with it make the channels, in order.
        raters: {name of a person who marked the case: the file with these marks}, where there are several.
    """

    case_id: str
    image: Path
    label: Path | None = None
    patient_id: str = ""
    channels: tuple[Path, ...] = ()
    raters: dict[str, Path] = field(default_factory=dict)

    def __post_init__(self):
        self.patient_id = self.patient_id or self.case_id

    @property
    def has_reference(self) -> bool:
        return self.label is not None or bool(self.raters)


@dataclass
class Sample:
    """A scan with its label map, read into memory.

    Attributes:
        scan: the image.
        labels: (D, H, W) integer label map on the scan's grid, 0 = background; None without reference.
        label_names: {label value: name}, background left out.
        targets: {name of what can be asked for: the label values that make it up}.
    """

    case_id: str
    scan: Scan
    labels: np.ndarray | None = None
    label_names: dict[int, str] = field(default_factory=dict)
    targets: dict[str, tuple[int, ...]] = field(default_factory=dict)
