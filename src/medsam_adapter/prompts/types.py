"""What a person says about one object: clicks and boxes, in voxels of the scan's file, and a sentence."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field


@dataclass
class ObjectPrompt:
    """Prompts of one object in the file frame.

    Attributes:
        points: (x, y, z) each, the voxel (i, j, k) of the file; z is 0 for a picture.
        labels: 1 object, 0 ground, one for each point.
        boxes: (x0, y0, z0, x1, y1, z1) each, two opposite corners of a box on one slice.
        text: a sentence that names the object; empty for none. Alone, it is said of every slice.
    """

    points: list[tuple[float, float, float]] = field(default_factory=list)
    labels: list[int] = field(default_factory=list)
    boxes: list[tuple[float, float, float, float, float, float]] = field(default_factory=list)
    text: str = ""

    @property
    def is_text_alone(self) -> bool:
        return bool(self.text) and not self.points and not self.boxes

    def to_json(self) -> dict:
        """Plain lists, to be stored beside results."""
        return asdict(self)
