"""The marks of DDTI: polygons as JSON in XML files, and the pixels in them."""

from __future__ import annotations

import json
import math
import re
import xml.etree.ElementTree as ElementTree
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

_POINTS = re.compile(r'"points"\s*:\s*')
_MIN_POINTS = 3


@dataclass
class Marks:
    """What an XML file says of one picture.

    Attributes:
        polygons_xy: for each outline its points (x, y) in pixels; (0, 0) is the centre of the first pixel.
        is_cut_off: the text ends early, but behind the last point of its last polygon.
        damage: what cannot be read, if anything.
    """

    polygons_xy: list[list[tuple[float, float]]] = field(default_factory=list)
    is_cut_off: bool = False
    damage: str = ""


def read_marks(file: Path, pictures: Collection[str]) -> dict[str, Marks]:
    """{picture "<case>_<image>": its marks} of one file; pictures without an outline do not occur.

    Args:
        pictures: those of the case, which all count as damaged if the XML cannot be read.
    """
    try:
        root = ElementTree.parse(file).getroot()
    except (ElementTree.ParseError, OSError, ValueError) as error:
        return {name: Marks(damage=str(error)) for name in pictures}
    found: dict[str, Marks] = {}
    for mark in root.iter("mark"):
        number, text = (mark.findtext("image") or "").strip(), (mark.findtext("svg") or "").strip()
        if not text:
            continue
        marks = found.setdefault(f"{file.stem}_{number}", Marks())
        try:
            marks.polygons_xy += _polygons(text)
        except (ValueError, KeyError, TypeError) as error:
            marks.damage = f"image {number or 'without number'}: {type(error).__name__}: {error}"
        marks.is_cut_off |= not _is_json(text)
    return {name: marks for name, marks in found.items() if marks.polygons_xy or marks.damage}


def _polygons(text: str) -> list[list[tuple[float, float]]]:
    """The outlines in a text that is JSON up to the end of its last list of points.

    Raises ValueError, KeyError or TypeError for a list that is not whole.
    """
    decoder = json.JSONDecoder()
    starts = [match.end() for match in _POINTS.finditer(text)]
    if not starts:
        json.loads(text)  # a list without any region is whole; anything else raises
    lists = [decoder.raw_decode(text, start)[0] for start in starts]
    outlines = [[(float(point["x"]), float(point["y"])) for point in points] for points in lists]
    if not all(math.isfinite(number) for outline in outlines for point in outline for number in point):
        raise ValueError("a point is not finite")
    return [outline for outline in outlines if len(outline) >= _MIN_POINTS]


def _is_json(text: str) -> bool:
    try:
        json.loads(text)
    except ValueError:
        return False
    return True


def fill_polygons(polygons_xy: Sequence[Sequence[tuple[float, float]]], shape_yx: tuple[int, int]) -> np.ndarray:
    """(H, W) uint8, 1 in any polygon: the pixels whose centre is inside, and those that an outline passes through."""
    mask = Image.new("L", (shape_yx[1], shape_yx[0]), 0)
    draw = ImageDraw.Draw(mask)
    for points in polygons_xy:
        draw.polygon([(round(x), round(y)) for x, y in points], fill=1, outline=1)
    return np.array(mask)
