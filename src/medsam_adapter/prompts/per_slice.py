"""The prompts of a call of `MSAModel` as `decode_masks` takes them: each slice of a volume is an image of its own.

Shapes: B images or volumes, D slices, P objects, K points.
"""

from __future__ import annotations

import torch
from torch import Tensor

from medsam_adapter.errors import PromptError


def prompts_per_slice(
    embeddings: Tensor,
    image_size: int,
    input_points: Tensor | None = None,
    input_labels: Tensor | None = None,
    input_boxes: Tensor | None = None,
    input_masks: Tensor | None = None,
    input_texts: Tensor | None = None,
) -> dict[str, Tensor | None]:
    """{name: prompt (B, P, ...), or (B * D, P, ...) for volumes}; one without a slice axis is repeated on each slice.

    Without any prompt the whole picture is the box of one object; points without labels are all of the object.

    Args:
        embeddings: (B, C, g, g) or (B, D, C, g, g), what the prompts are asked of.
        image_size: side of the model frame in pixels.
        input_points, input_labels, input_boxes, input_masks, input_texts: (B, P, ...) or (B, D, P, ...), as in
            `MSAModel.forward`.

    Raises:
        PromptError: one whose leading axes are not those of the images.
    """
    lead = embeddings.shape[:-3]
    if all(given is None for given in (input_points, input_labels, input_boxes, input_masks, input_texts)):
        side = float(image_size - 1)
        input_boxes = embeddings.new_tensor([0.0, 0.0, side, side]).expand(*lead, 1, 4)
    if input_points is not None and input_labels is None:
        input_labels = torch.ones_like(input_points[..., 0], dtype=torch.long)
    return {
        "input_points": _repeated("input_points", input_points, 3, lead),
        "input_labels": _repeated("input_labels", input_labels, 2, lead),
        "input_boxes": _repeated("input_boxes", input_boxes, 2, lead),
        "input_masks": _repeated("input_masks", input_masks, 3, lead),
        "input_texts": _repeated("input_texts", input_texts, 2, lead),
    }


def _repeated(name: str, value: Tensor | None, axes: int, lead: tuple[int, ...]) -> Tensor | None:
    """A prompt of `axes` axes for each image (and slice) as (images, P, ...)."""
    if value is None:
        return None
    if value.ndim == axes + 1 and len(lead) == 2:
        value = value[:, None].expand(-1, lead[1], *value.shape[1:])
    if value.ndim != axes + len(lead) or tuple(value.shape[: len(lead)]) != tuple(lead):
        raise PromptError(
            f"{name} does not fit the images",
            expected=f"leading axes {tuple(lead)} and {axes} more",
            found=str(tuple(value.shape)),
            hint="one entry for each image (and slice), then one for each object",
        )
    return value.reshape(-1, *value.shape[len(lead) :])
