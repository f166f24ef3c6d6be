"""From the prompts of one object, in the frame of the file, to masks of the slices they lie on.

Shapes: D slices, n objects, h = w side of the decoder's masks, W width of a sentence's embedding.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from scipy import ndimage
from torch import Tensor

from medsam_adapter.data.geometry import Letterbox, Turn
from medsam_adapter.errors import PromptError
from medsam_adapter.inference.prompts_by_slice import by_slice, check_prompt, starts_a_mask, together
from medsam_adapter.inference.slices import SliceEmbeddings
from medsam_adapter.inference.volume import NOTHING
from medsam_adapter.prompts.clicks import FOREGROUND, PADDING
from medsam_adapter.prompts.decode import decode_masks
from medsam_adapter.prompts.types import ObjectPrompt


@dataclass
class TextRules:
    """When a sentence alone has found nothing; scores are the IoU that the model predicts of its own masks.

    The defaults were chosen on 12 phantoms outside the benchmark's: 0.97 of the questions for an organ outside the scan
    were answered by an empty mask (0.76 with no such rule), at no cost in Dice. Lower them for targets that are
    outlined badly but found: a model whose masks never reach the second finds nothing at all.
    """

    min_score: float = 0.25
    """Least score of a slice; below it the slice is empty."""
    min_best_score: float = 0.4
    """Least score of the best slice; below it the object is taken to be absent from the scan."""


@dataclass
class Encoded:
    """A scan at the encoder: all that further prompts need.

    Attributes:
        embeddings: (D, C, g, g), encoded when they are asked for.
        letterbox: source slice <-> model frame.
        turn: file frame <-> source frame.
        shape_zyx: of the source.
        is_picture: prompts and masks have no slice axis; a volume may have one slice, too.
    """

    embeddings: SliceEmbeddings
    letterbox: Letterbox
    turn: Turn
    shape_zyx: tuple[int, int, int]
    is_picture: bool = False


@torch.no_grad()
def decode_prompted_slices(
    model,
    encoded: Encoded,
    prompt: ObjectPrompt,
    text: Tensor | None = None,
    masks: Mapping[int, np.ndarray] | None = None,
) -> dict[int, np.ndarray]:
    """{slice of the source: logits (h, w)} for the slices of one object that hold a click or a box.

    Slices with background clicks alone are left out, unless a sentence names the object or there is a mask to correct.

    Args:
        text: (W,), the embedding of the prompt's sentence, said beside each click and box.
        masks: {slice: logits (h, w)} of a mask that the clicks correct; there a background click is enough.

    Raises:
        PromptError: no prompt, one outside the scan, background clicks only, or two boxes on one slice.
    """
    check_prompt(encoded.turn, prompt)
    slices, masks = by_slice(encoded.turn, prompt), masks or {}
    if text is None:
        slices = {z: said for z, said in slices.items() if z in masks or starts_a_mask(said)}
    if not slices:
        raise PromptError("only background clicks", expected="a foreground click or a box", found="none")
    out, device = {}, encoded.embeddings.device
    for z, said in slices.items():
        points, box = _in_model_frame(encoded, said)
        logits, _ = decode_masks(
            model,
            encoded.embeddings[z : z + 1],
            input_points=torch.tensor(points, device=device)[None, None],
            input_labels=torch.tensor(said.labels or [PADDING], device=device)[None, None],
            input_boxes=None if box is None else torch.tensor(box, device=device)[None, None],
            input_masks=torch.tensor(masks[z], device=device)[None, None] if z in masks else None,
            input_texts=None if text is None else text.to(device)[None, None],
        )
        out[z] = logits[0, 0, 0].float().cpu().numpy()
    return out


def correct_slices(
    model, encoded: Encoded, logits: np.ndarray, corrections: Mapping[int, ObjectPrompt], text: Tensor | None = None
) -> None:
    """Decode slices of a mask anew, in place, with what they show as mask prompt; one that shows nothing stays so.

    Args:
        logits: (D, h, w).
        corrections: {slice of the source: clicks}.
        text: as `decode_prompted_slices` takes it.
    """
    shown = {z: mask for z in corrections if (mask := source_mask(encoded, logits[z])).any()}
    if not shown:
        return
    masks = {z: mask_as_prompt(mask, encoded.letterbox, logits.shape[-1]) for z, mask in shown.items()}
    prompt = together({z: corrections[z] for z in shown})
    for z, each in decode_prompted_slices(model, encoded, prompt, text, masks).items():
        logits[z] = each


def source_mask(encoded: Encoded, logits: np.ndarray) -> np.ndarray:
    """The mask (H, W) bool of a source slice from logits (h, w)."""
    return encoded.letterbox.logits_to_source(torch.from_numpy(logits)[None, None])[0, 0].numpy() > 0


@torch.no_grad()
def decode_every_slice(
    model,
    embeddings: SliceEmbeddings,
    texts: Tensor,
    progress: Callable[[int], None] | None = None,
    should_stop: Callable[[], bool] | None = None,
    rules: TextRules | None = None,
) -> np.ndarray:
    """Logits (n, D, h, w) of n objects that are named by a sentence only; a slice without the object gives an empty
    mask.

    Args:
        texts: (n, W).
        progress: called with the number of slices decoded so far.
        should_stop: asked before each chunk; slices that were not reached are empty.
        rules: when the object is not there.
    """
    rules = rules or TextRules()
    depth, side, chunk = len(embeddings), 4 * embeddings.shape[-1], embeddings.chunk_slices
    out = np.full((len(texts), depth, side, side), NOTHING, np.float32)
    best = np.full(len(texts), -np.inf)
    for first in range(0, depth, chunk):
        if should_stop and should_stop():
            break
        some = embeddings[first : first + chunk]
        spoken = texts.to(some.device)[None].expand(len(some), -1, -1)
        logits, scores = decode_masks(model, some, input_texts=spoken)
        logits = torch.where(scores[..., None, None] < rules.min_score, NOTHING, logits)
        out[:, first : first + len(some)] = logits[:, :, 0].float().cpu().numpy().swapaxes(0, 1)
        best = np.maximum(best, scores[..., 0].amax(0).float().cpu().numpy())
        if progress:
            progress(first + len(some))
    out[best < rules.min_best_score] = NOTHING
    return out


def prompted_places(encoded: Encoded, prompt: ObjectPrompt, shape: tuple[int, ...]) -> list[tuple[int | slice, ...]]:
    """Where an object was said to be, as indices (z, y, x) on the decoder's grid (D, h, w): a foreground click's pixel,
    and the pixels that a box encloses on its slice.
    """

    def on_grid(points: Sequence[Sequence[float]]) -> np.ndarray:
        xyz = encoded.turn.points_to_source(points)
        scale = encoded.letterbox.image_size / shape[-1]
        xy = (encoded.letterbox.points_to_model(xyz[:, :2]) + 0.5) / scale - 0.5
        zyx = np.stack([xyz[:, 2], xy[:, 1], xy[:, 0]], 1).round().astype(int)
        return np.clip(zyx, 0, np.array(shape) - 1)

    places: list[tuple[int | slice, ...]] = []
    for point, label in zip(prompt.points, prompt.labels, strict=True):
        if label == FOREGROUND:
            z, y, x = on_grid([point])[0]
            places.append((z, y, x))
    for box in prompt.boxes:
        corners = on_grid([box[:3], box[3:]])
        (z, y0, x0), (_, y1, x1) = corners.min(0), corners.max(0)
        places.append((z, slice(y0, y1 + 1), slice(x0, x1 + 1)))
    return places


def mask_as_prompt(mask: np.ndarray, letterbox: Letterbox, side: int) -> np.ndarray:
    """A mask (H, W) bool of a source slice as the logits (side, side) of a mask prompt.

    Signed distances to its outline, clipped to 10, as training makes them of a neighbouring slice's mask.
    """
    framed = letterbox.masks_to_model(torch.from_numpy(np.ascontiguousarray(mask))[None, None].float())
    shape = F.adaptive_avg_pool2d(framed, (side, side))[0, 0].numpy() > 0.5
    distance = ndimage.distance_transform_edt(shape) - ndimage.distance_transform_edt(~shape)
    return np.clip(2 * distance if shape.any() else np.full(shape.shape, -10.0), -10, 10).astype(np.float32)


def _in_model_frame(encoded: Encoded, said: ObjectPrompt) -> tuple[np.ndarray, np.ndarray | None]:
    """Points (n, 2), one of zeros where there is none, and box (4,) of one slice."""
    points = np.zeros((1, 2), np.float32)
    if said.points:
        points = encoded.letterbox.points_to_model(encoded.turn.points_to_source(said.points)[:, :2])
    if not said.boxes:
        return points, None
    corners = encoded.turn.points_to_source(np.reshape(said.boxes[0], (2, 3)))[:, :2]
    return points, encoded.letterbox.boxes_to_model(np.array([*corners.min(0), *corners.max(0)]))
