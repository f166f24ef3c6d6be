"""DDTI: polygons in XML beside the pictures, or the re-release with masks as PNG."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from .sketches import SHAPE_YX, ellipse, leave_litter, lesion, save

VARIANTS = ({}, {"form": "png"})
# Corners (x, y) of rectangles by picture; 3_1 has two nodules, 4_1 none.
BOXES = {
    "1_1": [(10, 8, 30, 30)],
    "1_2": [(12, 10, 28, 26)],
    "2_1": [(20, 14, 50, 40)],
    "3_1": [(5, 5, 20, 20), (40, 25, 55, 40)],
    "4_1": [],
    "10_1": [(22, 12, 44, 34)],
}
DESCRIPTION = (
    "<number>{0}</number><age>41</age><sex>F</sex><composition>solid</composition><echogenicity>isoechogenicity"
    "</echogenicity><margins>well defined</margins><calcifications>non</calcifications><tirads>4a</tirads>"
    "<reportbacaf/><reporteco/>"
)


def regions_of(boxes: list[tuple[int, int, int, int]]) -> list[dict]:
    corners = [[(x0, y0), (x1, y0), (x1, y1), (x0, y1)] for x0, y0, x1, y1 in boxes]
    return [
        {"points": [{"x": x, "y": y} for x, y in points], "annotation": {}, "regionType": "freehand"}
        for points in corners
    ]


def write(root: Path, seed: int = 0, form: str = "xml") -> dict[str, np.ndarray]:
    """{case id: mask (H, W), 0 and 1} of the marked pictures; the form is "xml" or "png"."""
    if form == "png":
        return _write_png(root, seed)
    truth: dict[str, np.ndarray] = {}
    marks: dict[str, list[str]] = {}
    for number, (name, boxes) in enumerate(BOXES.items()):
        save(root / f"{name}.jpg", lesion(seed + number, (110, 110, 110), (50, 50, 50))[0])
        case, image = name.split("_")
        svg = json.dumps(regions_of(boxes)) if boxes else ""
        marks.setdefault(case, []).append(f"<mark><image>{image}</image><svg>{svg}</svg></mark>")
        if boxes:
            truth[name] = np.zeros(SHAPE_YX, np.uint8)
            for x0, y0, x1, y1 in boxes:
                truth[name][y0 : y1 + 1, x0 : x1 + 1] = 1
    for case, parts in marks.items():
        (root / f"{case}.xml").write_text(f"<case>{DESCRIPTION.format(case)}{''.join(parts)}</case>")
    # As in cases 197 and 205 of the original, the text ends early, here behind the last point.
    cut = root / "10.xml"
    cut.write_text(
        cut.read_text().replace('"annotation": {}, "regionType": "freehand"}]', '"annotation": {}, "regionTy')
    )
    leave_litter(root, "1_1.jpg")
    return truth


def _write_png(root: Path, seed: int) -> dict[str, np.ndarray]:
    truth: dict[str, np.ndarray] = {}
    for number in range(5):
        name = f"{number:04d}"
        picture, truth[name] = lesion(seed + number, (110, 110, 110), (50, 50, 50))
        for images, masks in (("1_or_data/image", "1_or_data/mask"), ("2_preprocessed_data/stage1/p_image",
                              "2_preprocessed_data/stage1/p_mask")):  # fmt: skip
            is_whole = images.startswith("1")
            shown = picture[..., 0] if is_whole else picture[::2, ::2, 0]
            save(root / f"DDTI/{images}/{name}.PNG", shown)
            save(
                root / f"DDTI/{masks}/{name}.PNG", (truth[name] if is_whole else truth[name][::2, ::2]) * np.uint8(255)
            )
    rows = "".join(f"{number:04d}.PNG,{number % 2}\n" for number in range(5))
    (root / "DDTI/1_or_data/category.csv").write_text("ID,CATE\n" + rows)
    (root / "DDTI/2_preprocessed_data/train.csv").write_text("ID,CATE,size,fold\n" + rows.replace("\n", ",1,0\n"))
    (root / "DDTI/2_preprocessed_data/readme.txt").write_text("stage1 and stage2\n")
    return truth


def triangle() -> tuple[list[tuple[int, int]], np.ndarray]:
    """Points (x, y) of a triangle and its pixels, to tell x from y."""
    points = [(10, 5), (40, 5), (10, 15)]
    mask = ellipse((0, 0), (0.1, 0.1)).astype(np.uint8) * 0
    for y in range(5, 16):
        mask[y, 10 : 41 - 3 * (y - 5)] = 1
    return points, mask
