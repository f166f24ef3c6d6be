"""Two models beside each other on the same prompts, and their scores against a reference."""

from __future__ import annotations

import html
import json
import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from medsam_adapter.data.io import read_label
from medsam_adapter.data.limits import refuse_larger_than
from medsam_adapter.demo.rendering import data_url, render
from medsam_adapter.demo.uploads import without_folders
from medsam_adapter.demo.viewer import layers_on, slice_picture
from medsam_adapter.demo.workspace import Workspace
from medsam_adapter.errors import DataError, MSAError
from medsam_adapter.evaluation.metrics import MaskMetrics, mask_metrics

SIDE = 560


@dataclass
class Compared:
    """One model's side.

    Attributes:
        choice: the model's name on the menu.
        content: the slice for a viewer.
        voxels: of its mask.
        metrics: against the reference; None without one.
    """

    choice: str
    content: str
    voxels: int
    metrics: MaskMetrics | None


def read_reference(space: Workspace, path: str | Path | None) -> None:
    """Take a label map to compare with, or none any more.

    Raises:
        DataError: not readable, or not on the scan's grid.
    """
    if path is None:
        space.reference = None
        return
    scan = space.opened()
    try:
        refuse_larger_than(Path(path), space.limits.unpacked_bytes)
        space.reference = read_label(path, like=scan)
    except MSAError as error:
        raise without_folders(error) from error


def reference_mask(space: Workspace) -> tuple[np.ndarray, str] | None:
    """(mask, what it is) of the reference for the active object: the label under its first click in the object, or the
    one that its mask shares most with; of a reference with one label that one."""
    labels = space.reference
    if labels is None:
        return None
    each = space.objects[space.active]
    values = np.unique(labels[labels > 0])
    if len(values) == 0:
        raise DataError("the reference is empty", expected="a label map that shows the object", found="zeros only")
    if len(values) == 1:
        return labels == values[0], f"label {values[0]}"
    for (x, y, z), label in zip(each.thing.prompt.points, each.thing.prompt.labels, strict=True):
        value = int(labels[int(z), int(y), int(x)])
        if label and value:
            return labels == value, f"label {value}, which the first click is in"
    inside, counts = np.unique(labels[each.mask & (labels > 0)], return_counts=True)
    value = int(inside[counts.argmax()] if len(inside) else values[0])
    return labels == value, f"label {value}, which the mask shares most with"


def compare(space: Workspace, choices: tuple[str, str], plane: str) -> tuple[list[Compared], str]:
    """Both sides, and a sentence about what was scored.

    A mask that was carried is scored as a volume; else only the slice that is shown is.

    Raises:
        MSAError: nothing asked yet, or a model that does not take these prompts.
    """
    with space.lock:
        reference = reference_mask(space)
        is_whole = space.objects[space.active].thing.carried is not None or not space.opened().is_volume
        sides = []
        for choice in choices:
            mask = space.mask_by(choice)
            metrics = None
            if reference is not None:
                metrics = _scored(space, mask, reference[0], plane, is_whole)
            sides.append(Compared(choice, _content(space, plane, mask, choice), int(mask.sum()), metrics))
    if reference is None:
        return sides, "Add a reference mask to see Dice, IoU and HD95."
    where = "the whole scan" if is_whole else f"{plane} slice {space.at[plane] + 1}"
    return sides, f"Scored on {where} against {reference[1]}."


def _scored(space: Workspace, mask: np.ndarray, reference: np.ndarray, plane: str, is_whole: bool) -> MaskMetrics:
    scan, chosen = space.opened(), space.planes[plane]
    if is_whole:
        return mask_metrics(mask, reference, scan.spacing_mm)
    at = space.at[plane]
    return mask_metrics(chosen.slice_of(mask, at), chosen.slice_of(reference, at), chosen.spacing_mm[1:])


def _content(space: Workspace, plane: str, mask: np.ndarray, choice: str) -> str:
    chosen, picture = space.planes[plane], slice_picture(space, plane)
    layer = next(each for each in layers_on(space, plane) if each.is_active) if _is_shown(space) else None
    layers = []
    if layer is not None:
        layer.mask = chosen.slice_of(mask, space.at[plane])
        layers = [layer]
    shown = render(picture, layers, chosen.pixel_aspect, space.opacity, space.style, SIDE)
    return json.dumps(
        {
            "src": data_url(shown), "width": shown.width, "height": shown.height, "columns": picture.shape[1],
            "rows": picture.shape[0], "slices": 1, "edges": chosen.edges, "caption": choice,
        }
    )  # fmt: skip


def _is_shown(space: Workspace) -> bool:
    return space.objects[space.active].is_visible


def scores_table(sides: list[Compared], sentence: str) -> str:
    """HTML."""
    rows = []
    for side in sides:
        cells = [html.escape(side.choice), f"{side.voxels:,}"]
        if side.metrics is not None:
            m = side.metrics
            cells += ["none" if math.isnan(v) else f"{v:.3f}" for v in (m.dice, m.iou)]
            cells += ["none" if math.isnan(m.hd95_mm) else f"{m.hd95_mm:.1f}"]
        rows.append("<tr>" + "".join(f"<td>{cell}</td>" for cell in cells) + "</tr>")
    head = ["model", "voxels"] + (["Dice", "IoU", "HD95 mm"] if sides and sides[0].metrics is not None else [])
    titles = "".join(f"<th>{title}</th>" for title in head)
    return f"<table class='msa-objects'><tr>{titles}</tr>{''.join(rows)}</table><p>{html.escape(sentence)}</p>"
