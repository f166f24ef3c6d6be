"""Several overlays on one sheet: a grid of pictures, and the best, median and worst cases row by row."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from ..errors import MSAInputError
from ..writing import naming_write_errors, replacing
from .overlays import BACKGROUND_RGB, display_size, draw_overlay, resized_mask, with_title

PANEL_PIXELS = 320
"""Of the longer side of a panel."""


@dataclass
class OverlayItem:
    """One case on a sheet; the fields are as in `draw_overlay`."""

    caption: str
    image: np.ndarray
    prediction: np.ndarray
    reference: np.ndarray | None = None
    points_xy: np.ndarray | None = None
    labels: np.ndarray | None = None
    boxes_xyxy: np.ndarray | None = None
    pixel_spacing: tuple[float, float] = (1.0, 1.0)


def shrunk(item: OverlayItem, scale_to: int = PANEL_PIXELS) -> OverlayItem:
    """The item in the size in which it is drawn, if that is smaller: for pictures that wait for others.

    Args:
        item: of a uint8 image.
        scale_to: pixels of a panel's longer side.
    """
    height, width = item.image.shape[:2]
    size_wh = display_size(height, width, item.pixel_spacing, scale_to)
    if size_wh[0] * size_wh[1] >= width * height:
        return item
    scale = np.array(size_wh) / (width, height)
    points, boxes = item.points_xy, item.boxes_xyxy
    return replace(
        item,
        image=np.array(Image.fromarray(item.image).resize(size_wh, Image.Resampling.LANCZOS)),
        prediction=resized_mask(item.prediction, size_wh),
        reference=None if item.reference is None else resized_mask(item.reference, size_wh),
        points_xy=None if points is None else (points + 0.5) * scale - 0.5,  # a point is the centre of its pixel
        boxes_xyxy=None if boxes is None else (boxes + [0, 0, 1, 1]) * np.tile(scale, 2) - [0, 0, 1, 1],
        pixel_spacing=(1.0, 1.0),
    )


def contact_sheet(
    panels: Sequence[Image.Image | np.ndarray], columns: int, captions: Sequence[str] | None = None, gap: int = 8
) -> Image.Image:
    """Pictures in rows of `columns`, each centred in a cell of the largest one's size.

    Args:
        panels: PIL pictures or uint8 arrays (H, W) or (H, W, 3); their sizes may differ.
        columns: pictures in a row.
        captions: one text for each panel, above it; None for none.
        gap: pixels between and around the cells.

    Raises:
        MSAInputError: no panels, or another number of captions.
    """
    pictures = [panel if isinstance(panel, Image.Image) else Image.fromarray(panel) for panel in panels]
    if not pictures or columns < 1:
        raise MSAInputError("nothing to put on the sheet", expected="a panel and a column, at least")
    if captions is not None and len(captions) != len(pictures):
        raise MSAInputError(
            "captions and panels differ in number", expected=f"{len(pictures)} captions", found=str(len(captions))
        )
    columns = min(columns, len(pictures))
    width, height = (max(picture.size[axis] for picture in pictures) for axis in (0, 1))
    cells = [_centred(picture, (width, height)) for picture in pictures]
    if captions is not None:
        cells = [with_title(cell, caption) for cell, caption in zip(cells, captions, strict=True)]
    width, height = cells[0].size
    rows = -(-len(cells) // columns)
    sheet = Image.new("RGB", (columns * (width + gap) + gap, rows * (height + gap) + gap), BACKGROUND_RGB)
    for index, cell in enumerate(cells):
        row, column = divmod(index, columns)
        sheet.paste(cell, (gap + column * (width + gap), gap + row * (height + gap)))
    return sheet


def write_best_median_worst(path: str | Path, items: Sequence[OverlayItem], scale_to: int = PANEL_PIXELS) -> Path:
    """Writes a PNG with a row for each item, in the order given: image, reference, prediction with its prompts.

    The last panel has the reference's outline too. An item without reference has an empty cell there.

    Args:
        path: the PNG to write.
        items: "already ordered", such as best, median, worst; the caption says which ("best: case_7, Dice 0.93").
        scale_to: pixels of a panel's longer side.

    Raises:
        MSAInputError: no items, or one whose arrays do not fit each other.
        OutputError: it cannot be written; what was there before is as it was.
    """
    rows = [_panels(item, scale_to) for item in items]
    if not rows:
        raise MSAInputError("nothing to put on the sheet", expected="an item, at least")
    # One cell size for all rows, so that columns stand below each other.
    width, height = (max(panel.size[axis] for row in rows for panel in row) for axis in (0, 1))
    lines = []
    for index, (item, row) in enumerate(zip(items, rows, strict=True)):
        headings = ("image", "reference", "prediction") if index == 0 else None
        line = contact_sheet([_centred(panel, (width, height)) for panel in row], len(row), headings)
        lines.append(with_title(line, item.caption))
    sheet = contact_sheet(lines, 1)
    path = Path(path)
    with naming_write_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as temporary:
        sheet.save(temporary, format="PNG")
    return path


def _panels(item: OverlayItem, scale_to: int) -> list[Image.Image]:
    frame: dict[str, Any] = {"scale_to": scale_to, "pixel_spacing": item.pixel_spacing}
    plain = draw_overlay(item.image, **frame)
    if item.reference is None:
        reference = Image.new("RGB", plain.size, BACKGROUND_RGB)
    else:
        reference = draw_overlay(item.image, reference=item.reference, **frame)
    prompts: dict[str, Any] = {"points_xy": item.points_xy, "labels": item.labels, "boxes_xyxy": item.boxes_xyxy}
    return [plain, reference, draw_overlay(item.image, item.prediction, item.reference, **prompts, **frame)]


def _centred(picture: Image.Image, size_wh: tuple[int, int]) -> Image.Image:
    """The picture in the middle of a dark cell."""
    cell = Image.new("RGB", size_wh, BACKGROUND_RGB)
    cell.paste(picture.convert("RGB"), ((size_wh[0] - picture.width) // 2, (size_wh[1] - picture.height) // 2))
    return cell
