"""Pictures of results: the slice that shows a target best, with masks and clicks, in the source frame."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from medsam_adapter.data.geometry import Turn
from medsam_adapter.data.sample import Scan
from medsam_adapter.evaluation.sheets import OverlayItem, shrunk, write_best_median_worst
from medsam_adapter.processing_msa import MSAProcessor
from medsam_adapter.prompts.types import ObjectPrompt


def overlay_item(
    scan: Scan,
    processor: MSAProcessor,
    turn: Turn,
    prediction: np.ndarray,
    reference: np.ndarray | None,
    prompt: ObjectPrompt,
    caption: str,
    scale_to: int | None = None,
) -> OverlayItem:
    """The slice with the largest reference (or prediction) of one target; nothing of the volumes is held.

    Args:
        prediction, reference: (D, H, W) bool in the file frame.
        scale_to: shrink it to a panel of so many pixels; None keeps the slice as it is.
    """
    shown = turn.array_to_source(prediction if reference is None or not reference.any() else reference)
    z = int(shown.sum((1, 2)).argmax())
    image = (processor.unit_scale(scan)(turn.array_to_source(scan.array)[z]) * 255).astype(np.uint8)
    clicks = [
        (turn.points_to_source(np.array(p)), label) for p, label in zip(prompt.points, prompt.labels, strict=True)
    ]
    here = [(xyz, label) for xyz, label in clicks if round(xyz[2]) == z]
    corners = [turn.points_to_source(np.array(box).reshape(2, 3)) for box in prompt.boxes]
    boxes = [[*c.min(0)[:2], *c.max(0)[:2]] for c in corners if round(c[0, 2]) == z]
    item = OverlayItem(
        caption,
        image,
        turn.array_to_source(prediction)[z].copy(),
        None if reference is None else turn.array_to_source(reference)[z].copy(),
        points_xy=np.array([xyz[:2] for xyz, _ in here]) if here else None,
        labels=np.array([label for _, label in here]) if here else None,
        boxes_xyxy=np.array(boxes) if boxes else None,
        pixel_spacing=turn.spacing_to_source(scan.spacing_mm)[1:],
    )
    return item if scale_to is None else shrunk(item, scale_to)


def write_extremes(path: Path, scored: Sequence[tuple[float, OverlayItem]]) -> Path | None:
    """A PNG of the best, the median and the worst of (Dice, item); None if there are no items."""
    if not scored:
        return None
    ordered = sorted((pair for pair in scored), key=lambda pair: -pair[0])
    picked = {"best": ordered[0], "median": ordered[len(ordered) // 2], "worst": ordered[-1]}
    items = []
    for name, (dice, item) in picked.items():
        items.append(replace(item, caption=f"{name}: {item.caption}, Dice {dice:.2f}"))
        if len(ordered) == 1:
            break
    return write_best_median_worst(path, items)
