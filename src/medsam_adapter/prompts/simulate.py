"""A simulated person: opening prompts for a batch of targets, and corrections of what the model shows.

Masks are at the decoder's resolution (n, h, w), prompts in the model frame: a mask pixel (x, y) has its centre at
((x + 0.5) * stride - 0.5, ...). n = images x objects.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike
from scipy import ndimage
from torch import Tensor

from medsam_adapter.prompts.boxes import box_with_iou, jittered_box, tight_box
from medsam_adapter.prompts.clicks import FOREGROUND, PADDING, correction_click, interior_point, random_point


@dataclass
class PromptMix:
    """How often a training step opens with each kind of prompt (the weights need not sum to 1)."""

    click: float = 0.45
    """One click."""
    clicks: float = 0.15
    """Two to ten clicks, drawn evenly in the target."""
    box: float = 0.15
    """A jittered box."""
    box_75: float = 0.0
    """A box that overlaps the target's own with IoU 0.75."""
    box_50: float = 0.0
    """A box that overlaps the target's own with IoU 0.5."""
    box_and_click: float = 0.05
    """A jittered box and a click."""
    neighbour: float = 0.2
    """A mask like the one of a neighbouring slice (shifted, grown or shrunk), and the point in its middle."""
    text: float = 0.0
    """A sentence alone."""
    text_and_click: float = 0.0
    """A sentence and a click."""

    def draw(self, rng: np.random.Generator) -> str:
        """One of the kinds."""
        names, weights = zip(*vars(self).items(), strict=True)
        return str(rng.choice(names, p=np.asarray(weights) / sum(weights)))


SPOKEN = ("text", "text_and_click")
"""Kinds that need a sentence for each object."""


@dataclass
class PromptSet:
    """Prompts of n objects: points (n, K, 2), labels (n, K), boxes (n, 4), masks (n, h, w) and texts (n, W) or None."""

    points: np.ndarray
    labels: np.ndarray
    boxes: np.ndarray | None = None
    masks: np.ndarray | None = None
    texts: Tensor | None = None

    @classmethod
    def of_texts(cls, texts: Tensor) -> PromptSet:
        """Sentences alone: texts (n, W)."""
        return cls(np.zeros((len(texts), 0, 2), np.float32), np.zeros((len(texts), 0), int), texts=texts)

    def tensors(self, device: torch.device, leading: tuple[int, int]) -> dict[str, Any]:
        """Arguments of `decode_masks`, n split into `leading` = (images, objects); one of the two may be -1."""

        def put(x, dtype):
            return None if x is None else torch.as_tensor(x, dtype=dtype, device=device).reshape(*leading, *x.shape[1:])

        return {
            "input_points": put(self.points, torch.float32) if self.points.shape[1] else None,
            "input_labels": put(self.labels, torch.long) if self.points.shape[1] else None,
            "input_boxes": put(self.boxes, torch.float32),
            "input_masks": put(self.masks, torch.float32),
            "input_texts": put(self.texts, torch.float32),
        }


def to_model_frame(xy: ArrayLike, stride: int) -> np.ndarray:
    """Mask pixels to the model frame: centres stay centres."""
    return (np.asarray(xy, dtype=np.float32) + 0.5) * stride - 0.5


def opening_prompts(
    targets: np.ndarray,
    stride: int,
    rng: np.random.Generator,
    kind: str | None = None,
    texts: Tensor | None = None,
    own: Sequence[np.random.Generator] | None = None,
) -> PromptSet:
    """The first prompt of each target, all of one kind, since one decoder call has one form.

    Args:
        targets: (n, h, w) bool; an empty target gets a background click in the middle of the picture.
        stride: model-frame pixels to a mask pixel.
        kind: a field of `PromptMix`; drawn from the default mix if None.
        texts: (n, W), for the kinds with a sentence: its embedding for each target.
        own: a generator for each target, so that its prompt does not depend on the others; `rng` for all if None.
    """
    kind = kind or PromptMix().draw(rng)
    count = {"clicks": int(rng.integers(2, 11)), "box": 0, "box_75": 0, "box_50": 0, "text": 0}.get(kind, 1)
    points, labels = np.zeros((len(targets), count, 2), np.float32), np.full((len(targets), count), PADDING)
    boxes = np.zeros((len(targets), 4), np.float32) if kind.startswith("box") else None
    masks = np.zeros(targets.shape, np.float32) if kind == "neighbour" else None
    for i, target in enumerate(targets):
        drawer = rng if own is None else own[i]
        if not target.any():
            if count:
                middle = (target.shape[1] // 2, target.shape[0] // 2)
                points[i, 0], labels[i, 0] = to_model_frame(middle, stride), 0
            if boxes is not None:
                boxes[i] = 0, 0, *to_model_frame(np.array(target.shape[::-1]) - 1, stride)
            continue
        if masks is not None:
            masks[i], shape = neighbour_mask(target, drawer)
            points[i, 0], labels[i, 0] = to_model_frame(interior_point(shape), stride), FOREGROUND
        elif count:
            drawn = [random_point(target, drawer) for _ in range(count)]
            if drawer.random() < 0.3:
                drawn[0] = interior_point(target)
            points[i], labels[i] = to_model_frame(drawn, stride), FOREGROUND
        if boxes is not None:
            boxes[i] = to_model_frame(_box(target, kind, drawer), stride)
    if boxes is not None and not count:
        points, labels = np.zeros((len(targets), 1, 2), np.float32), np.full((len(targets), 1), PADDING)
    return PromptSet(points, labels, boxes, masks, texts if kind in SPOKEN else None)


def _box(target: np.ndarray, kind: str, rng: np.random.Generator) -> np.ndarray:
    iou = {"box_75": 0.75, "box_50": 0.5}.get(kind)
    return jittered_box(target, rng) if iou is None else box_with_iou(tight_box(target), iou, target.shape, rng)


def neighbour_mask(target: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """A mask as the next slice of a volume might show it: logits (h, w) for the mask prompt, and the bool shape."""
    shape = target
    for _ in range(4):
        moved = ndimage.shift(target.astype(np.float32), rng.normal(0, 1.2, 2), order=1) > 0.5
        amount = int(rng.integers(-3, 4))
        if amount:
            moved = (ndimage.binary_dilation if amount > 0 else ndimage.binary_erosion)(moved, iterations=abs(amount))
        if moved.any():
            shape = moved
            break
    distance = ndimage.distance_transform_edt(shape) - ndimage.distance_transform_edt(~shape)
    return np.clip(distance * rng.uniform(0.7, 4), -10, 10).astype(np.float32), shape


def correct(
    prompts: PromptSet, logits: np.ndarray, targets: np.ndarray, stride: int, rng: np.random.Generator
) -> PromptSet:
    """Prompts with one more click for each object, where the prediction is most wrong; the logits become the mask
    prompt.

    Args:
        logits: (n, h, w), what the model answered to `prompts`.
        targets: (n, h, w) bool.
    """
    points, labels = np.zeros((len(targets), 1, 2), np.float32), np.full((len(targets), 1), PADDING)
    for i, (shown, target) in enumerate(zip(logits > 0, targets, strict=True)):
        xy, labels[i, 0] = correction_click(shown, target)
        points[i, 0] = to_model_frame(xy, stride)
    masks = np.clip(logits, -10, 10) if rng.random() < 0.8 else None
    return PromptSet(
        np.concatenate([prompts.points, points], 1),
        np.concatenate([prompts.labels, labels], 1),
        prompts.boxes,
        masks,
        prompts.texts,
    )
