"""Pictures of results: the slice that shows a target best, with masks and clicks, in the source frame."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from medsam_adapter.data.geometry import Turn
from medsam_adapter.data.sample import Scan
from medsam_adapter.evaluation.sheets import OverlayItem, write_best_median_worst
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
) -> OverlayItem:
    """The slice with the largest reference (or prediction) of one target.

    Args:
        prediction, reference: (D, H, W) bool in the file frame.
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
    return OverlayItem(
        caption,
        image,
        turn.array_to_source(prediction)[z],
        None if reference is None else turn.array_to_source(reference)[z],
        points_xy=np.array([xyz[:2] for xyz, _ in here]) if here else None,
        labels=np.array([label for _, label in here]) if here else None,
        boxes_xyxy=np.array(boxes) if boxes else None,
        pixel_spacing=turn.spacing_to_source(scan.spacing_mm)[1:],
    )


def write_extremes(path: Path, scored: Sequence[tuple[float, OverlayItem]]) -> Path | None:
    """A PNG of the best, the median and the worst of (Dice, item); None if there are no items."""
    if not scored:
        return None
    ordered = sorted((pair for pair in scored), key=lambda pair: -pair[0])
    picked = {"best": ordered[0], "median": ordered[len(ordered) // 2], "worst": ordered[-1]}
    items = []
    for name, (dice, item) in picked.items():
        item.caption = f"{name}: {item.caption}, Dice {dice:.2f}"
        items.append(item)
        if len(ordered) == 1:
            break
    return write_best_median_worst(path, items)
