"""Text prompts in SAM's prompt encoder: a trained projection makes prompt tokens of a sentence's embedding.

    tokens = [SAM's point and box tokens, Project(e)],  Project(e) = W2 GELU(W1 norm(e))

e is the embedding of a frozen text model (prompts/text.py). The projection is part of the adapter: one for each adapter
name, saved in the adapter's file, switched with it. (https://arxiv.org/abs/2304.12620: the CLIP embedding of a free
text is the prompt token; the projection's form is our choice.)
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers.models.sam.modeling_sam import SamPromptEncoder

from medsam_adapter.adapters.config import MSAAdapterConfig
from medsam_adapter.adapters.layer import MSALayer
from medsam_adapter.errors import PromptError, no_text_prompts


class TextProjection(nn.Module):
    """(..., W) embeddings of sentences -> (..., T, C) prompt tokens."""

    def __init__(self, text_width: int, width: int, num_tokens: int = 1):
        super().__init__()
        self.text_width, self.num_tokens = text_width, num_tokens
        self.hidden = nn.Linear(text_width, width)
        self.out = nn.Linear(width, num_tokens * width)

    def forward(self, embeddings: Tensor) -> Tensor:
        normed = F.layer_norm(embeddings.to(self.hidden.weight.dtype), (self.text_width,))
        return self.out(F.gelu(self.hidden(normed))).unflatten(-1, (self.num_tokens, -1))


class SwappedClicks(nn.Module):
    """(..., 2) points (x, y) -> (y, x), for adapters that were trained with them this way (`swap_clicks`).

    It has no weights; being a module it is switched on and off with its adapter.
    """

    def forward(self, points: Tensor) -> Tensor:
        return points.flip(-1)


class MSAPromptEncoder(SamPromptEncoder, MSALayer):
    """A `SamPromptEncoder` that also takes texts.

    SAM's own parts keep their names (one of them is tied to another of the model), so `base_layer` is not a submodule
    here as it is in the wrapped blocks, but the same parts once more.
    """

    adapter_layer_names = ("msa_adapter_text", "msa_adapter_clicks")

    def __init__(self, base_layer: SamPromptEncoder, adapter_name: str, config: MSAAdapterConfig):
        nn.Module.__init__(self)
        for name, part in base_layer.named_children():
            self.add_module(name, part)
        self.hidden_size = base_layer.hidden_size
        self.__dict__["base_layer"] = base_layer
        self._start(base_layer, adapter_name, config)

    def __setattr__(self, name: str, value) -> None:
        if name == "base_layer":
            self.__dict__[name] = value
        else:
            super().__setattr__(name, value)

    # `set_image_size` changes these two; the base has to know as well, for the day the adapter is unloaded.
    @property
    def image_embedding_size(self) -> tuple[int, int]:
        return self.base_layer.image_embedding_size

    @image_embedding_size.setter
    def image_embedding_size(self, value: tuple[int, int]) -> None:
        self.base_layer.image_embedding_size = value

    @property
    def input_image_size(self) -> int:
        return self.base_layer.input_image_size

    @input_image_size.setter
    def input_image_size(self, value: int) -> None:
        self.base_layer.input_image_size = value

    def make_adapters(self, config: MSAAdapterConfig) -> dict[str, nn.Module]:
        made: dict[str, nn.Module] = {}
        if config.use_text:
            made["msa_adapter_text"] = TextProjection(config.text_width, self.hidden_size, config.text_tokens)
        if config.swap_clicks:
            made["msa_adapter_clicks"] = SwappedClicks()
        return made

    def forward(
        self,
        input_points: Tensor | None = None,
        input_labels: Tensor | None = None,
        input_boxes: Tensor | None = None,
        input_masks: Tensor | None = None,
        input_texts: Tensor | None = None,
    ) -> tuple[Tensor | None, Tensor]:
        """As `SamPromptEncoder`, with input_texts (N, P, W) -> sparse tokens (N, P, K + T, C), dense (N, C, g, g).

        Raises:
            PromptError: a text, but no active adapter that takes one; or embeddings of another width.
        """
        swapped = [] if self.is_plain else [n for n in self.active_adapters if n in self.msa_adapter_clicks]
        if input_points is not None and swapped:
            input_points = self.msa_adapter_clicks[swapped[0]](input_points)
        sparse, dense = super().forward(input_points, input_labels, input_boxes, input_masks)
        if input_texts is None:
            return sparse, dense
        projections = [] if self.is_plain else [
            self.msa_adapter_text[name] for name in self.active_adapters if name in self.msa_adapter_text
        ]  # fmt: skip
        if not projections:
            raise no_text_prompts()
        for projection in projections:
            if input_texts.shape[-1] != projection.text_width:
                raise PromptError(
                    "the sentences were embedded by another text model than the adapter's",
                    expected=f"embeddings of width {projection.text_width}",
                    found=str(input_texts.shape[-1]),
                    hint="use the processor that was saved with the adapter",
                )
        tokens = torch.cat([projection(input_texts) for projection in projections], -2)
        tokens = tokens if sparse is None else torch.cat([sparse, tokens.to(sparse.dtype)], -2)
        if input_masks is None:
            dense = dense[:1].expand(len(tokens), -1, -1, -1)  # SAM's own counts points and boxes only
        return tokens, dense
