"""A slice as a person sees it: the picture through its window, the objects' masks as outlines or fill, the prompts."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from PIL import Image, ImageDraw

MAX_SIDE = 720
"""Longer side of a rendered slice in pixels of the screen; a larger picture is rendered at its own size."""
STYLES = ("outline and fill", "outline", "fill")
_MARK = 5


@dataclass
class Layer:
    """One object on one slice.

    Attributes:
        mask: (H, W) bool.
        colour: "#rrggbb".
        points_xy: clicks on this slice, pixels of the slice; labels 1 object, 0 background.
        boxes_xyxy: boxes on this slice, by their first and last pixel.
        is_active: its prompts are drawn.
    """

    mask: np.ndarray
    colour: str
    points_xy: list[tuple[float, float]] = field(default_factory=list)
    labels: list[int] = field(default_factory=list)
    boxes_xyxy: list[tuple[float, float, float, float]] = field(default_factory=list)
    is_active: bool = True


def size_on_screen(shape_hw: tuple[int, int], pixel_aspect: float, max_side: int = MAX_SIDE) -> tuple[int, int]:
    """(width, height) in pixels of the screen, in the patient's proportions."""
    height, width = shape_hw[0] * pixel_aspect, float(shape_hw[1])
    scale = max(max_side / max(height, width), 1.0) if max(height, width) < max_side else 1.0
    return max(1, round(width * scale)), max(1, round(height * scale))


def render(
    picture: np.ndarray,
    layers: Sequence[Layer],
    pixel_aspect: float = 1.0,
    opacity: float = 0.35,
    style: str = "outline and fill",
    max_side: int = MAX_SIDE,
) -> Image.Image:
    """The composed picture, RGB.

    Args:
        picture: (H, W) or (H, W, 3) uint8, already through its window.
        opacity: of the fill, 0 to 1.
        style: "outline", "fill" or "outline and fill".
    """
    size = size_on_screen(picture.shape[:2], pixel_aspect, max_side)
    shown = Image.fromarray(np.ascontiguousarray(picture)).convert("RGB").resize(size, Image.Resampling.BILINEAR)
    canvas = np.asarray(shown, np.float32).copy()
    for layer in layers:
        if not layer.mask.any():
            continue
        small = Image.fromarray(np.ascontiguousarray(layer.mask))
        mask = np.asarray(small.resize(size, Image.Resampling.NEAREST), bool)
        colour = np.array(rgb(layer.colour), np.float32)
        if "fill" in style:
            canvas[mask] += opacity * (colour - canvas[mask])
        if "outline" in style:
            canvas[_outline(mask)] = colour
    out = Image.fromarray(canvas.round().astype(np.uint8))
    scale_xy = size[0] / picture.shape[1], size[1] / picture.shape[0]
    draw = ImageDraw.Draw(out)
    for layer in layers:
        if layer.is_active:
            _draw_prompts(draw, layer, scale_xy)
    return out


def _draw_prompts(draw: ImageDraw.ImageDraw, layer: Layer, scale_xy: tuple[float, float]) -> None:
    def at(x: float, y: float) -> tuple[float, float]:
        return (x + 0.5) * scale_xy[0], (y + 0.5) * scale_xy[1]

    for x0, y0, x1, y1 in layer.boxes_xyxy:
        corners = [*at(x0 - 0.5, y0 - 0.5), *at(x1 + 0.5, y1 + 0.5)]
        draw.rectangle(corners, outline="black", width=4)
        draw.rectangle(corners, outline=layer.colour, width=2)
    for (x, y), label in zip(layer.points_xy, layer.labels, strict=True):
        cx, cy = at(x, y)
        around = [cx - _MARK, cy - _MARK, cx + _MARK, cy + _MARK]
        draw.ellipse(around, fill=layer.colour if label else "#d0342c", outline="white", width=2)
        arm = _MARK - 2
        draw.line([cx - arm, cy, cx + arm, cy], fill="white", width=2)
        if label:
            draw.line([cx, cy - arm, cx, cy + arm], fill="white", width=2)


def _outline(mask: np.ndarray) -> np.ndarray:
    """The two outermost pixels of a mask."""
    inner = mask
    for _ in range(2):
        padded = np.pad(inner, 1)
        inner = inner & padded[:-2, 1:-1] & padded[2:, 1:-1] & padded[1:-1, :-2] & padded[1:-1, 2:]
    return mask & ~inner


def rgb(colour: str) -> tuple[int, int, int]:
    """ "#rrggbb" as three numbers; Gradio's colour picker also gives "rgba(r, g, b, a)".

    Raises:
        ValueError: neither.
    """
    if colour.startswith("rgb"):
        numbers = colour[colour.index("(") + 1 : colour.rindex(")")].split(",")[:3]
        red, green, blue = (int(min(255, max(0, round(float(number))))) for number in numbers)
        return red, green, blue
    value = int(colour.lstrip("#"), 16)
    return value >> 16 & 255, value >> 8 & 255, value & 255


def hex_colour(colour: str) -> str:
    """Any colour that `rgb` takes as "#rrggbb"."""
    return "#{:02x}{:02x}{:02x}".format(*rgb(colour))


def png_bytes(picture: Image.Image) -> bytes:
    """Lossless, and written quickly rather than small: it goes to the browser once."""
    stream = io.BytesIO()
    picture.save(stream, "PNG", compress_level=1)
    return stream.getvalue()


def data_url(picture: Image.Image) -> str:
    """The picture inside an address, so that no file of it lies on the server."""
    return "data:image/png;base64," + base64.b64encode(png_bytes(picture)).decode()
