"""SAM's parameters under transformers' names and under Meta's.

The public MSA code keeps Meta's names. Facts from https://github.com/facebookresearch/segment-anything (modeling/*.py)
and from transformers' `SamModel`.
"""

from __future__ import annotations

ENCODER, PROMPTS, DECODER = "image_encoder.", "prompt_encoder.", "mask_decoder."

POSITIONS = "prompt_encoder.pe_layer.positional_encoding_gaussian_matrix"
_OF_POSITIONS = (
    "shared_image_embedding.positional_embedding",
    "prompt_encoder.shared_embedding.positional_embedding",
)
"""transformers' two names of one tensor: points and the image grid are embedded with the same matrix."""
_FIRST = {"vision_encoder": "image_encoder"}
_PARTS = {
    "image_encoder": {
        "layers": "blocks", "layer_norm1": "norm1", "layer_norm2": "norm2", "projection": "proj",
    },
    "image_encoder.neck": {"conv1": "0", "layer_norm1": "1", "conv2": "2", "layer_norm2": "3"},
    "prompt_encoder.mask_embed": {"conv1": "0", "layer_norm1": "1", "conv2": "3", "layer_norm2": "4", "conv3": "6"},
    "mask_decoder.transformer": {
        "layer_norm1": "norm1", "layer_norm2": "norm2", "layer_norm3": "norm3", "layer_norm4": "norm4",
        "layer_norm_final_attn": "norm_final_attn",
    },
}  # fmt: skip
_BEGINNINGS = {
    "prompt_encoder.mask_embed.": "prompt_encoder.mask_downscaling.",
    "prompt_encoder.point_embed.": "prompt_encoder.point_embeddings.",
    "mask_decoder.upscale_conv1.": "mask_decoder.output_upscaling.0.",
    "mask_decoder.upscale_layer_norm.": "mask_decoder.output_upscaling.1.",
    "mask_decoder.upscale_conv2.": "mask_decoder.output_upscaling.3.",
}
_HEADS = ("mask_decoder.output_hypernetworks_mlps.", "mask_decoder.iou_prediction_head.")


def meta_name(name: str) -> str:
    """Meta's name of a parameter of `SamModel`."""
    if name in _OF_POSITIONS:
        return POSITIONS
    first, _, rest = name.partition(".")
    name = f"{_FIRST.get(first, first)}.{rest}"
    if name.startswith(_HEADS):  # three linear layers: proj_in, layers.0, proj_out
        return name.replace(".layers.0.", ".layers.1.").replace(".proj_in.", ".layers.0.").replace(
            ".proj_out.", ".layers.2."
        )  # fmt: skip
    for beginning in sorted(_PARTS, key=len, reverse=True):
        if name.startswith(beginning + "."):
            parts = name.removeprefix(beginning + ".").split(".")
            name = ".".join([beginning, *(_PARTS[beginning].get(part, part) for part in parts)])
            break
    for beginning, meta in _BEGINNINGS.items():
        if name.startswith(beginning):
            return meta + name.removeprefix(beginning)
    return name


def one_name(name: str) -> str:
    """Meta's name of a tensor in a checkpoint of the public MSA code, some versions of which renamed two tables.

    So renamed they missed SAM's values: they were zero, and relative positions lost.
    """
    return name.replace(".attn.rel_h", ".attn.rel_pos_h").replace(".attn.rel_w", ".attn.rel_pos_w")
