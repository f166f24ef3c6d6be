"""What a person says about one object: clicks and boxes, in voxels of the scan's file, and a sentence."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, field
from typing import Any

_LENGTHS = {"points": 3, "boxes": 6}


@dataclass
class ObjectPrompt:
    """Prompts of one object in the file frame. A z between two slices counts for the nearer one.

    Attributes:
        points: (x, y, z) each, the voxel (i, j, k) of the file; z is 0 for a picture.
        labels: 1 object, 0 ground, one for each point.
        boxes: (x0, y0, z0, x1, y1, z1) each, two opposite corners of a box on one slice.
        text: a sentence that names the object; empty for none. Alone, it is said of every slice.
    """

    points: list[tuple[float, ...]] = field(default_factory=list)
    labels: list[int] = field(default_factory=list)
    boxes: list[tuple[float, ...]] = field(default_factory=list)
    text: str = ""

    @property
    def is_text_alone(self) -> bool:
        return bool(self.text) and not self.points and not self.boxes

    def to_json(self) -> dict:
        """Plain lists, to be stored beside results."""
        return asdict(self)

    @classmethod
    def from_json(cls, content: dict[str, Any]) -> ObjectPrompt:
        """The way back of `to_json`; the prompt may be empty.

        Raises:
            ValueError, KeyError, TypeError, AttributeError: what is no prompt.
        """
        places = {key: [tuple(float(number) for number in place) for place in content.get(key, ())] for key in _LENGTHS}
        for key, length in _LENGTHS.items():
            if any(len(place) != length for place in places[key]):
                raise ValueError(f"{key} of other than {length} numbers")
            if not all(math.isfinite(number) for place in places[key] for number in place):
                raise ValueError(f"{key} that are nowhere")
        labels = [int(label) for label in content.get("labels", ())]
        if len(labels) != len(places["points"]) or not set(labels) <= {0, 1}:
            raise ValueError("labels other than 0 or 1 for each point")
        return cls(places["points"], labels, places["boxes"], str(content.get("text", "")))
