"""The models that are compared: SAMs with random weights, and ours on top of the same weights."""

from __future__ import annotations

import copy

import torch
from torch import nn
from transformers import SamConfig, SamModel

from medsam_adapter.adapters.config import MSAAdapterConfig
from medsam_adapter.modeling_msa import MSAModel
from medsam_adapter.pretraining.backbone import BackboneConfig, build_backbone

ARCHITECTURES = {
    "vit-b": {"hidden_size": 768, "num_hidden_layers": 12, "num_attention_heads": 12},
    "vit-l": {"hidden_size": 1024, "num_hidden_layers": 24, "num_attention_heads": 16},
    "vit-h": {"hidden_size": 1280, "num_hidden_layers": 32, "num_attention_heads": 16},
}
"""Meta's three sizes; a quarter of the blocks attend globally."""
TINY = {"patch_size": 8, "hidden_size": 32, "num_layers": 3, "num_heads": 2, "window_size": 5, "decoder_size": 32}
"""A model that shows in seconds that the program works; its figures say nothing."""
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}


class Models:
    """SAMs of one architecture, made when first asked for; those of one size and dtype share their weights.

    Args:
        architecture: "vit-b", "vit-l", "vit-h" or "tiny".
        device: where they lie.
    """

    def __init__(self, architecture: str, device: torch.device):
        self.architecture, self.device = architecture, device
        self._sams: dict[tuple[int, torch.dtype, str], SamModel] = {}

    def sam(self, image_size: int, dtype: torch.dtype = torch.float32, attention: str = "sdpa") -> SamModel:
        """transformers' model for images of `image_size` px; `attention` is "sdpa" or "eager"."""
        key = (image_size, dtype, attention)
        if key not in self._sams:
            if attention != "sdpa":
                made = _with_weights_of(self.sam(image_size, dtype), dtype, attention)
            elif dtype != torch.float32:
                made = _with_weights_of(self.sam(image_size), dtype, attention)
            else:
                made = _random_sam(self.architecture, image_size)
            self._sams[key] = made.to(self.device).eval().requires_grad_(False)
        return self._sams[key]

    def ours(
        self, image_size: int, dtype: torch.dtype = torch.float32, adapter: MSAAdapterConfig | None = None
    ) -> MSAModel:
        """A new `MSAModel` on the weights of `sam(image_size, dtype)`, with a fresh adapter if one is given."""
        torch.manual_seed(0)
        return MSAModel.from_base(self.sam(image_size, dtype), adapter)

    def forget(self) -> None:
        """Free the memory of models that nobody else holds."""
        self._sams.clear()


def _random_sam(architecture: str, image_size: int) -> SamModel:
    torch.manual_seed(0)
    if architecture == "tiny":
        model = build_backbone(BackboneConfig(image_size=image_size, **TINY))
    else:
        sizes = ARCHITECTURES[architecture]
        quarter = sizes["num_hidden_layers"] // 4
        vision = {
            **sizes,
            "image_size": image_size,
            "global_attn_indexes": list(range(quarter - 1, sizes["num_hidden_layers"], quarter)),
            "initializer_range": 0.02,  # transformers' default, 1e-10, is meant for loading weights
        }
        model = SamModel(SamConfig(vision_config=vision, prompt_encoder_config={"image_size": image_size}))
    for name, parameter in model.named_parameters():
        if "rel_pos" in name:  # zero in a new model, and the error of wrong code would be zero, too
            nn.init.normal_(parameter, std=0.1)
    return model


def _with_weights_of(base: SamModel, dtype: torch.dtype, attention: str) -> SamModel:
    """The same model in another dtype or with another attention; weights that need no conversion are shared."""
    with torch.device("meta"):
        model = SamModel._from_config(copy.deepcopy(base.config), attn_implementation=attention)
    model.load_state_dict({name: weight.to(dtype) for name, weight in base.state_dict().items()}, assign=True)
    model.tie_weights()
    return model
