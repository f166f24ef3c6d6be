"""The prompts of one object, checked in the frame of the file and sorted by the slices of the source."""

from __future__ import annotations

from collections.abc import Container, Mapping, Sequence

import numpy as np

from medsam_adapter.data.geometry import Turn
from medsam_adapter.errors import PromptError
from medsam_adapter.prompts.checks import check_point
from medsam_adapter.prompts.clicks import BACKGROUND, FOREGROUND
from medsam_adapter.prompts.types import ObjectPrompt


def check_prompt(turn: Turn, prompt: ObjectPrompt) -> None:
    """Whether points and boxes can be asked of a scan. It is told in the file frame: errors speak of the given numbers.

    Raises:
        PromptError: neither point nor box, one outside the scan, a point without a label or with an
            unknown one, or two boxes on one slice.
    """
    if not prompt.points and not prompt.boxes:
        raise PromptError("there is no prompt", expected="a point or a box", found="none", hint="click into the object")
    if len(prompt.points) != len(prompt.labels):
        raise PromptError(
            "each point has one label", expected=f"{len(prompt.points)} labels", found=str(len(prompt.labels)),
            hint="1 is the object, 0 the ground",
        )  # fmt: skip
    if any(label not in (FOREGROUND, BACKGROUND) for label in prompt.labels):
        raise PromptError("a point has an unknown label", expected="1 (object) or 0 (ground)", found=str(prompt.labels))
    for point in prompt.points:
        if len(point) != 3:
            raise PromptError(
                "a point of a volume has three numbers", expected="x, y, z", found=_numbers(point),
                hint="z is the slice, counted from 0",
            )  # fmt: skip
        check_point(point, turn.shape_ijk[::-1], True)
    boxed = [_boxed_slice(turn, box) for box in prompt.boxes]
    if len(set(boxed)) < len(boxed):
        raise PromptError(
            "an object has two boxes on one slice", expected="one box round the whole object",
            found=str(len(boxed)), hint="two objects are prompted one after the other",
        )  # fmt: skip


def by_slice(turn: Turn, prompt: ObjectPrompt) -> dict[int, ObjectPrompt]:
    """The clicks and boxes of each slice of the source, with the prompt's sentence."""
    slices: dict[int, ObjectPrompt] = {}

    def entry(corner: Sequence[float]) -> ObjectPrompt:
        return slices.setdefault(turn.slice_of(corner), ObjectPrompt(text=prompt.text))

    for point, label in zip(prompt.points, prompt.labels, strict=True):
        entry(point).points.append(point)
        entry(point).labels.append(label)
    for box in prompt.boxes:
        entry(box[:3]).boxes.append(box)
    return slices


def together(slices: Mapping[int, ObjectPrompt], text: str = "") -> ObjectPrompt:
    """The way back of `by_slice`."""
    out = ObjectPrompt(text=text)
    for said in slices.values():
        out.points += said.points
        out.labels += said.labels
        out.boxes += said.boxes
    return out


def starts_a_mask(said: ObjectPrompt) -> bool:
    """Whether the prompts of a slice say where the object is; background clicks alone say only where it is not."""
    return FOREGROUND in said.labels or bool(said.boxes)


def anchors_and_corrections(
    turn: Turn, prompt: ObjectPrompt, shown: Container[int] = ()
) -> tuple[ObjectPrompt, dict[int, ObjectPrompt]]:
    """What a mask is carried from, and {slice: background clicks} that correct what is carried there.

    Args:
        shown: slices with a mask already; clicks on them correct that one, which is carried then.

    Where no slice starts a mask, all are carried from: the prompt's sentence may name the object.
    """
    slices = by_slice(turn, prompt)
    anchors = {z: said for z, said in slices.items() if z in shown or starts_a_mask(said)} or slices
    return together(anchors, prompt.text), {z: said for z, said in slices.items() if z not in anchors}


def _boxed_slice(turn: Turn, box: Sequence[float]) -> int:
    """The slice of the source that a box lies on."""
    if len(box) != 6:
        raise PromptError(
            "a box of a volume has six numbers", expected="x0, y0, z0, x1, y1, z1", found=_numbers(box),
            hint="both corners lie on one slice",
        )  # fmt: skip
    corners, last = np.asarray(box, float).reshape(2, 3), np.array(turn.shape_ijk) - 1
    if not ((corners >= 0) & (corners <= last)).all():
        raise PromptError(
            "a box does not fit the image: a corner lies outside",
            expected=", ".join(f"0 <= {name} <= {most}" for name, most in zip("xyz", last, strict=True)),
            found=_numbers(box), hint="boxes are x0, y0, z0, x1, y1, z1, counted from 0",
        )  # fmt: skip
    first, second = (turn.slice_of(corner) for corner in corners)
    if first != second:
        raise PromptError("a box lies on one slice", expected="two corners of one slice", found=str(tuple(box)))
    return first


def _numbers(values: Sequence[float]) -> str:
    return ", ".join(f"{v:g}" for v in values)
