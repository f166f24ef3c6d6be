"""Another image size for a SAM: positions are interpolated once, not at each call.

transformers' `SamModel` has one size: another one is refused, and `ignore_mismatched_sizes` zeroes the positions.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

from medsam_adapter.errors import CheckpointError


@torch.no_grad()
def set_image_size(model: nn.Module, image_size: int) -> None:
    """Change a `SamModel`'s model frame in place.

    The absolute positions are resized bicubically, the relative ones of global attention linearly (what SAM does at run
    time, so results are the same); windowed attention does not change.

    Args:
        model: a `SamModel` or `MSAModel`, with or without adapters.
        image_size: side of the square model frame in pixels; a multiple of the patch size.

    Raises:
        CheckpointError: if the patch does not divide the size.
    """
    vision, prompt, encoder = model.config.vision_config, model.config.prompt_encoder_config, model.vision_encoder
    if image_size < vision.patch_size or image_size % vision.patch_size:
        raise CheckpointError(
            f"image size {image_size} does not fit this model",
            expected=f"a multiple of its patch size, {vision.patch_size}",
            found=str(image_size),
            hint=f"take {max(1, round(image_size / vision.patch_size)) * vision.patch_size}",
        )
    if image_size == vision.image_size:
        return
    grid = image_size // vision.patch_size
    if encoder.pos_embed is not None:
        old = encoder.pos_embed
        resized = F.interpolate(old.permute(0, 3, 1, 2).float(), (grid, grid), mode="bicubic", align_corners=False)
        encoder.pos_embed = nn.Parameter(resized.permute(0, 2, 3, 1).to(old.dtype).contiguous(), old.requires_grad)
    for layer in encoder.layers:
        block = getattr(layer, "base_layer", layer)
        if block.window_size == 0 and block.attn.use_rel_pos:
            for name in ("rel_pos_h", "rel_pos_w"):
                old = getattr(block.attn, name)
                if not hasattr(block.attn, f"original_{name}"):  # for whoever resizes it to something else
                    block.attn.register_buffer(f"original_{name}", old.detach().clone(), persistent=False)
                resized = F.interpolate(old.float().t()[None], 2 * grid - 1, mode="linear")[0].t()
                setattr(block.attn, name, nn.Parameter(resized.to(old.dtype).contiguous(), old.requires_grad))
    vision.image_size = prompt.image_size = encoder.config.image_size = image_size
    prompt.image_embedding_size = grid
    encoder.image_size = image_size
    encoder.patch_embed.image_size, encoder.patch_embed.num_patches = (image_size, image_size), grid * grid
    model.prompt_encoder.image_embedding_size = (grid, grid)
    model.prompt_encoder.input_image_size = image_size
