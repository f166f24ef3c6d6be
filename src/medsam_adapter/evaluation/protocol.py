"""The protocol of an evaluation: which prompts a person would give, drawn from the reference, the same for every
method.

Prompts are drawn in the source frame (as the model sees the slices) and stored in the file frame. In a volume,
`1-point` is one click for the whole volume, on the slice where the target is largest; `N-points` are clicks on up to N
slices spread along the target; a box lies on the largest slice. `per="slice"` prompts every slice that shows the target
instead.
"""

from __future__ import annotations

import re

import numpy as np

from medsam_adapter.data.geometry import Turn
from medsam_adapter.errors import PromptError, did_you_mean
from medsam_adapter.prompts.boxes import box_with_iou, tight_box
from medsam_adapter.prompts.clicks import interior_point, largest_component, random_point
from medsam_adapter.prompts.types import ObjectPrompt

PROTOCOLS = ("1-point", "3-points", "10-points", "box", "box-0.5", "box-0.75", "text", "text-union", "text-absent")
SPOKEN = ("text", "text-union", "text-absent")
"""Prompted by a sentence alone: of one target, of several (the reference is their union), of another body region (the
reference is empty). A target that a case does not show is asked for all the same."""


def check_protocol(name: str, per: str = "volume") -> None:
    """Raise a `PromptError` for a protocol that does not exist."""
    if name not in SPOKEN and not re.fullmatch(r"[1-9]\d*-points?|box(-0?\.\d*[1-9]\d*)?", name):
        hint = did_you_mean(name, PROTOCOLS)
        raise PromptError("unknown kind of prompts", expected=", ".join(PROTOCOLS), found=name, hint=hint)
    if per not in ("slice", "volume"):
        raise PromptError("prompts are given per slice or per volume", expected="slice or volume", found=per)


def draw_prompt(target: np.ndarray, turn: Turn, protocol: str, per: str, rng: np.random.Generator) -> ObjectPrompt:
    """The prompts of one target.

    Args:
        target: (D, H, W) bool in the source frame, not empty.
        turn: source frame <-> file frame.
        protocol: see PROTOCOLS; not one of a sentence.
        per: "volume" or "slice".

    Returns:
        prompts in the file frame.
    """
    check_protocol(protocol, per)
    areas = target.sum((1, 2))
    shown = np.flatnonzero(areas)
    prompt = ObjectPrompt()
    if protocol.startswith("box"):
        iou = float(protocol.removeprefix("box").lstrip("-") or 1)
        for z in shown if per == "slice" else [int(areas.argmax())]:
            box = tight_box(target[z])
            if iou < 1:
                box = box_with_iou(box, iou, target.shape[1:], rng)
            corners = turn.points_to_file(np.array([[box[0], box[1], z], [box[2], box[3], z]]))
            prompt.boxes.append(tuple(float(v) for v in corners.ravel()))
        return prompt
    count = int(protocol.split("-")[0])
    for z, clicks in _slices(areas, shown, count, per):
        points = [interior_point(largest_component(target[z]))]
        points += [random_point(target[z], rng) for _ in range(clicks - 1)]
        for x, y in points:
            prompt.points.append(tuple(float(v) for v in turn.points_to_file(np.array([x, y, z]))))
            prompt.labels.append(1)
    return prompt


def _slices(areas: np.ndarray, shown: np.ndarray, count: int, per: str) -> list[tuple[int, int]]:
    """(slice, clicks on it): N clicks on each slice, or spread along the target, at the middle of N equal parts."""
    if per == "slice":
        return [(int(z), count) for z in shown]
    if count == 1:
        return [(int(areas.argmax()), 1)]
    places = ((np.arange(count) + 0.5) * len(shown) / count).astype(int)
    slices, clicks = np.unique(shown[places], return_counts=True)
    return [(int(z), int(n)) for z, n in zip(slices, clicks, strict=True)]
