"""Masks, references and prompts drawn over a slice.

Frames: images and masks are (H, W); a point (x, y) is a pixel's centre, so (0, 0) lies in the middle of the first
pixel; a box is x0 y0 x1 y1 by its first and last pixel, and is drawn round both.

Prediction: vermilion, or azure on a picture that is red there itself (a fundus), filled and outlined. Reference: green
outline, on top. Clicks: lime (on the target) and red (off it) dots. Boxes: yellow. Pixels are drawn in their true
shape. Masks are interpolated between pixel centres for drawing, so their outlines look smoother than the grid they were
scored on.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont
from scipy import ndimage

from ..errors import MSAInputError

PREDICTION_RGB = (255, 102, 36)
PREDICTION_ON_RED_RGB = (56, 150, 255)
REFERENCE_RGB = (46, 214, 104)
POSITIVE_RGB = (190, 255, 40)
NEGATIVE_RGB = (235, 30, 45)
BOX_RGB = (255, 214, 10)
BACKGROUND_RGB = (24, 24, 27)
TITLE_RGB = (235, 235, 235)
_FILL_OPACITY = 0.32
# Everything is drawn at twice the size and halved at the end: smooth edges without own antialiasing.
_OVERSAMPLING = 2


def draw_overlay(
    image: np.ndarray,
    prediction: np.ndarray | None = None,
    reference: np.ndarray | None = None,
    points_xy: np.ndarray | None = None,
    labels: np.ndarray | None = None,
    boxes_xyxy: np.ndarray | None = None,
    scale_to: int = 512,
    pixel_spacing: Sequence[float] = (1.0, 1.0),
) -> Image.Image:
    """One slice with its masks and prompts.

    Args:
        image: (H, W) or (H, W, 3). uint8 is shown as it is; any other dtype is stretched from its 0.5th to its 99.5th
            percentile, which is for looking and not for measuring.
        prediction, reference: (H, W) masks; None or empty draws nothing.
        points_xy: (N, 2) in pixels of the image.
        labels: (N,) 1 on the target, 0 off it, others (padding) are not drawn; None: all 1.
        boxes_xyxy: (N, 4) or (4,) in pixels of the image.
        scale_to: pixels of the picture's longer side.
        pixel_spacing: size of a pixel (y, x) in any unit; only the ratio counts.

    Raises:
        MSAInputError: an image that is no picture, or masks, points or boxes that do not fit it.
    """
    image = _to_uint8_rgb(np.asarray(image))
    masks = [_checked_mask(name, mask, image) for name, mask in (("prediction", prediction), ("reference", reference))]
    points = np.zeros((0, 2)) if points_xy is None else np.asarray(points_xy, float).reshape(-1, 2)
    kinds = np.ones(len(points), int) if labels is None else np.asarray(labels).reshape(-1)
    if len(kinds) != len(points):
        raise MSAInputError(
            "points and labels differ in number", expected=f"{len(points)} labels", found=f"{len(kinds)}"
        )

    height, width = image.shape[:2]
    size_wh = display_size(height, width, pixel_spacing, scale_to)
    large_wh = (size_wh[0] * _OVERSAMPLING, size_wh[1] * _OVERSAMPLING)
    is_enlarged = large_wh[0] >= width
    canvas = np.asarray(
        Image.fromarray(image).resize(large_wh, Image.Resampling.BICUBIC if is_enlarged else Image.Resampling.LANCZOS),
        np.float32,
    )
    thickness = _OVERSAMPLING * max(1.5, scale_to / 220)
    if masks[0] is not None:
        mask = resized_mask(masks[0], large_wh)
        colour = _prediction_colour(image, masks[0])
        canvas = _blend(canvas, mask, colour, _FILL_OPACITY)
        canvas = _blend(canvas, _outline(mask, thickness), colour, 1.0)
    if masks[1] is not None:
        canvas = _blend(canvas, _outline(resized_mask(masks[1], large_wh), thickness), REFERENCE_RGB, 1.0)

    picture = Image.fromarray(canvas.round().astype(np.uint8))
    scale = np.array([large_wh[0] / width, large_wh[1] / height])
    if boxes_xyxy is not None:
        for box in (np.asarray(boxes_xyxy, float).reshape(-1, 4) + [0, 0, 1, 1]) * np.tile(scale, 2):
            ImageDraw.Draw(picture).rectangle(list(box), outline=BOX_RGB, width=round(thickness))
    for xy, kind in zip((points + 0.5) * scale, kinds, strict=True):
        if kind in (0, 1):
            _draw_click(
                picture, xy, POSITIVE_RGB if kind == 1 else NEGATIVE_RGB, _OVERSAMPLING * max(3.5, scale_to / 85)
            )
    return picture.resize(size_wh, Image.Resampling.LANCZOS)


def with_title(picture: Image.Image, title: str) -> Image.Image:
    """The picture under a dark strip with one line of text, shortened to fit."""
    font_size = min(max(11, round(max(picture.size) / 30)), 18)
    font = ImageFont.load_default(font_size)
    strip = round(font_size * 1.9)
    framed = Image.new("RGB", (picture.width, picture.height + strip), BACKGROUND_RGB)
    framed.paste(picture, (0, strip))
    text, room = title, picture.width - font_size
    while len(text) > 1 and font.getlength(text) > room:
        text = text[:-4].rstrip() + "..." if text.endswith("...") else text[:-1].rstrip() + "..."
        if text == "...":
            break
    ImageDraw.Draw(framed).text((font_size // 2, strip // 2), text, fill=TITLE_RGB, font=font, anchor="lm")
    return framed


def _to_uint8_rgb(image: np.ndarray) -> np.ndarray:
    if image.ndim not in (2, 3) or (image.ndim == 3 and image.shape[2] != 3) or 0 in image.shape:
        raise MSAInputError("this is no picture", expected="(H, W) or (H, W, 3)", found=str(image.shape))
    if image.dtype != np.uint8:
        finite = np.nan_to_num(image.astype(np.float32))
        low, high = np.percentile(finite, (0.5, 99.5))
        image = (np.clip((finite - low) / max(high - low, 1e-6), 0, 1) * 255).round().astype(np.uint8)
    return np.repeat(image[..., None], 3, axis=2) if image.ndim == 2 else image


def _prediction_colour(image: np.ndarray, mask: np.ndarray) -> tuple[int, int, int]:
    """The one that can be told from what lies under the mask."""
    red, _, blue = image[mask].mean(0) if mask.any() else (0, 0, 0)
    return PREDICTION_ON_RED_RGB if red - blue > 60 else PREDICTION_RGB


def _checked_mask(name: str, mask: np.ndarray | None, image: np.ndarray) -> np.ndarray | None:
    if mask is None:
        return None
    mask = np.asarray(mask).astype(bool)
    if mask.shape != image.shape[:2]:
        raise MSAInputError(f"the {name} does not fit the image", expected=str(image.shape[:2]), found=str(mask.shape))
    return mask


def display_size(height: int, width: int, pixel_spacing: Sequence[float], scale_to: int) -> tuple[int, int]:
    """(width, height) of the picture: the longer side is `scale_to`."""
    step_y, step_x = (float(step) for step in pixel_spacing)
    if not (math.isfinite(step_y) and math.isfinite(step_x) and step_y > 0 and step_x > 0):
        raise MSAInputError("impossible pixel size", expected="(y, x), both above 0", found=str(tuple(pixel_spacing)))
    scale = scale_to / max(height * step_y, width * step_x)
    return max(1, round(width * step_x * scale)), max(1, round(height * step_y * scale))


def resized_mask(mask: np.ndarray, size_wh: tuple[int, int]) -> np.ndarray:
    """(H, W) bool at another size (width, height)."""
    grey = Image.fromarray(mask.astype(np.float32)).resize(size_wh, Image.Resampling.BILINEAR)
    cover = np.asarray(grey)
    resized = cover >= 0.5
    # Shrinking thins small targets below one half everywhere; a speck is better than none.
    return resized if resized.any() else cover > 0


def _outline(mask: np.ndarray, thickness: float) -> np.ndarray:
    """The mask's rim, `thickness` pixels wide; the picture's border counts as outside."""
    inside = ndimage.distance_transform_edt(np.pad(mask, 1))[1:-1, 1:-1]
    return mask & (inside <= thickness)


def _blend(canvas: np.ndarray, mask: np.ndarray, rgb: tuple[int, int, int], opacity: float) -> np.ndarray:
    return np.where(mask[..., None], (1 - opacity) * canvas + opacity * np.array(rgb, np.float32), canvas)


def _draw_click(picture: Image.Image, xy: np.ndarray, rgb: tuple[int, int, int], radius: float) -> None:
    """A dot with a white ring and a dark edge, to stand out on any tissue and any mask."""
    draw = ImageDraw.Draw(picture)
    for grow, colour in ((1.55, (20, 20, 20)), (1.35, (255, 255, 255)), (1.0, rgb)):
        reach = radius * grow
        draw.ellipse([xy[0] - reach, xy[1] - reach, xy[0] + reach, xy[1] + reach], fill=colour)
