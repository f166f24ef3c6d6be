"""Masks of a volume, carried from the prompted slices both ways.

Shapes: D slices, n objects, C embedding width, g grid side, h = w = 4 g.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from scipy import ndimage
from torch import Tensor

from medsam_adapter.inference.slices import SliceEmbeddings
from medsam_adapter.prompts.carry import carried_prompts
from medsam_adapter.prompts.decode import decode_masks

NOTHING = -20.0
"""Logit of slices the object does not reach."""


@dataclass
class CarryRules:
    """When the walk along the slices ends.

    A model that knows its object says so itself by an empty mask; the other rules catch one that leaks into a
    neighbour.
    """

    min_pixels: int = 1
    """Fewest pixels (of the decoder's mask) that count as an object."""
    max_growth: float = 3.0
    """Largest area, as a multiple of the slice before plus `slack_pixels`."""
    slack_pixels: int = 40
    """Growth that is always allowed."""
    min_overlap: float = 0.1
    """Least share of the mask that lies on the slice before's."""


@dataclass
class _Walker:
    """One object on its way along the slices."""

    target: int
    position: int
    step: int
    last: int
    logits: np.ndarray


def anchors_only(anchors: list[dict[int, np.ndarray]], depth: int) -> np.ndarray:
    """(n, D, h, w) logits of the prompted slices, `NOTHING` elsewhere."""
    side = next(iter(anchors[0].values())).shape[-1]
    out = np.full((len(anchors), depth, side, side), NOTHING, np.float32)
    for target, slices in enumerate(anchors):
        for z, logits in slices.items():
            out[target, z] = logits
    return out


@torch.no_grad()
def carry_masks(
    model,
    embeddings: Tensor | SliceEmbeddings,
    anchors: list[dict[int, np.ndarray]],
    rules: CarryRules | None = None,
    progress: Callable[[int], None] | None = None,
    should_stop: Callable[[], bool] | None = None,
    texts: Tensor | None = None,
) -> np.ndarray:
    """Masks on all slices from masks on some.

    Args:
        embeddings: (D, C, g, g); of `SliceEmbeddings` only the slices are encoded that the masks reach.
        anchors: for each of n objects {slice index: logits (h, w)}. A slice takes its mask from the nearest anchor.
        rules: when to stop.
        progress: called with the number of slices decoded so far.
        should_stop: asked before each step; what is done so far is returned.
        texts: (n, W) embeddings of the sentences that name the objects, said again on each slice.

    Returns:
        (n, D, h, w) logits, `NOTHING` where the object does not reach.
    """
    rules = rules or CarryRules()
    depth = len(embeddings)
    stride = model.config.vision_config.image_size // (4 * embeddings.shape[-1])
    out = anchors_only(anchors, depth)
    walkers = []
    for target, slices in enumerate(anchors):
        ordered = sorted(slices)
        for i, z in enumerate(ordered):
            if (slices[z] > 0).sum() < rules.min_pixels:
                continue
            below = -1 if i == 0 else (ordered[i - 1] + z) // 2
            above = depth if i + 1 == len(ordered) else (z + ordered[i + 1]) // 2 + 1
            walkers.append(_Walker(target, z, -1, below + 1, slices[z]))
            walkers.append(_Walker(target, z, +1, above - 1, slices[z]))
    done = 0
    walkers = [w for w in walkers if w.position != w.last]
    while walkers and not (should_stop and should_stop()):
        positions = [w.position + w.step for w in walkers]
        spoken = None if texts is None else texts[[w.target for w in walkers]]
        prompts = carried_prompts(np.stack([w.logits for w in walkers]), stride, spoken)
        logits, _ = decode_masks(model, embeddings[positions], **prompts.tensors(embeddings.device, (-1, 1)))
        going = []
        for walker, z, new in zip(walkers, positions, logits[:, 0, 0].float().cpu().numpy(), strict=True):
            if not _goes_on(walker.logits > 0, new > 0, rules):
                continue
            out[walker.target, z] = walker.logits = new
            walker.position = z
            if z != walker.last:
                going.append(walker)
        done += len(walkers)
        walkers = going
        if progress:
            progress(done)
    return out


def keep_prompted(logits: np.ndarray, places: Sequence[tuple[int | slice, ...]]) -> np.ndarray:
    """A carried mask without islands: only the connected pieces that touch a place, else the largest one.

    Args:
        logits: (D, h, w).
        places: indices (z, y, x) on that grid, of foreground clicks and of what boxes enclose on their slices.
    """
    pieces, count = ndimage.label(logits > 0)
    if count < 2:
        return logits
    kept = np.unique(np.concatenate([np.zeros(1, pieces.dtype), *(np.ravel(pieces[place]) for place in places)]))[1:]
    if not len(kept):
        kept = np.array([np.argmax(np.bincount(pieces.ravel())[1:]) + 1])
    return np.where((pieces > 0) & ~np.isin(pieces, kept), NOTHING, logits).astype(np.float32)


def _goes_on(before: np.ndarray, now: np.ndarray, rules: CarryRules) -> bool:
    area = int(now.sum())
    if area < rules.min_pixels or area > rules.max_growth * before.sum() + rules.slack_pixels:
        return False
    return (before & now).sum() >= rules.min_overlap * area
