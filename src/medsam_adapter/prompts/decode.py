"""One decoder call for any prompts, each object with its own mask prompt.

transformers' `SamModel` adds a mask prompt to the whole image, so objects of one image cannot have different ones; here
every object is decoded as an image of its own. Shapes: N images, P objects each, K points, M masks.
"""

from __future__ import annotations

from torch import Tensor

from medsam_adapter.errors import no_text_prompts


def decode_masks(
    model,
    image_embeddings: Tensor,
    input_points: Tensor | None = None,
    input_labels: Tensor | None = None,
    input_boxes: Tensor | None = None,
    input_masks: Tensor | None = None,
    input_texts: Tensor | None = None,
    multimask_output: bool = False,
) -> tuple[Tensor, Tensor]:
    """Mask logits from image embeddings and prompts; gradients flow.

    Args:
        model: a `SamModel` (or `MSAModel`).
        image_embeddings: (N, C, g, g).
        input_points: (N, P, K, 2), (x, y) in the model frame.
        input_labels: (N, P, K): 1 object, 0 ground, -1 no point.
        input_boxes: (N, P, 4), x0 y0 x1 y1 in the model frame.
        input_masks: (N, P, h, w), logits at the decoder's resolution.
        input_texts: (N, P, W), embeddings of sentences (prompts.text); needs an adapter with text prompts.
        multimask_output: three masks rather than one.

    Returns:
        logits (N, P, M, h, w) and predicted IoU (N, P, M).
    """
    given = next(x for x in (input_points, input_boxes, input_masks, input_texts) if x is not None)
    images, objects = given.shape[:2]
    flat = images * objects
    texts = {} if input_texts is None else {"input_texts": input_texts.reshape(flat, 1, input_texts.shape[-1])}
    if texts and not hasattr(model.prompt_encoder, "msa_adapter_text"):
        raise no_text_prompts()
    if input_masks is not None:  # transformers casts points and boxes to the weights' type, and masks not
        dtype = model.prompt_encoder.mask_embed.conv1.weight.dtype
        input_masks = input_masks.reshape(flat, 1, *input_masks.shape[-2:]).to(dtype)
    sparse, dense = model.prompt_encoder(
        input_points=None if input_points is None else input_points.reshape(flat, 1, *input_points.shape[2:]),
        input_labels=None if input_labels is None else input_labels.reshape(flat, 1, input_labels.shape[-1]),
        input_boxes=None if input_boxes is None else input_boxes.reshape(flat, 1, 4),
        input_masks=input_masks,
        **texts,
    )
    positions = model.get_image_wide_positional_embeddings()
    logits, iou = model.mask_decoder(
        image_embeddings=image_embeddings.repeat_interleave(objects, 0),
        image_positional_embeddings=positions.expand(flat, -1, -1, -1),
        sparse_prompt_embeddings=sparse,
        dense_prompt_embeddings=dense,
        multimask_output=multimask_output,
    )
    return logits.reshape(images, objects, *logits.shape[2:]), iou.reshape(images, objects, iou.shape[-1])
