"""The decoder block of the paper: three adapters in each two-way layer of SAM's mask decoder.

    t = CrossAttn(tokens -> image);  t = t + Up(ReLU(Down(t) (+) Prompt(p)))       adapter 1, with the prompt
    q = LN2(q + t);  q = LN3(q + MLP(q) + s * Mlp(q))                              adapter 2
    k = k + CrossAttn(image -> tokens);  k = LN4(k + Adapter(k))                   adapter 3

(https://arxiv.org/abs/2304.12620, figure 2; the official code has no decoder adapters.)
"""

from __future__ import annotations

from torch import Tensor, nn
from transformers.models.sam.modeling_sam import SamTwoWayAttentionBlock

from medsam_adapter.adapters.bottleneck import Adapter, PromptAdapter
from medsam_adapter.adapters.config import MSAAdapterConfig
from medsam_adapter.adapters.layer import MSALayer


class MSATwoWayBlock(SamTwoWayAttentionBlock, MSALayer):
    """A `SamTwoWayAttentionBlock` with adapters."""

    adapter_layer_names = ("msa_adapter_token", "msa_adapter_mlp", "msa_adapter_image")

    def __init__(self, base_layer: SamTwoWayAttentionBlock, adapter_name: str, config: MSAAdapterConfig):
        nn.Module.__init__(self)  # not SamTwoWayAttentionBlock's, which would build the block's weights again
        self._start(base_layer, adapter_name, config)

    def make_adapters(self, config: MSAAdapterConfig) -> dict[str, nn.Module]:
        width, ratio, activation = self.get_base_layer().hidden_size, config.bottleneck_ratio, config.activation
        return {
            "msa_adapter_token": PromptAdapter(width, ratio, config.prompt_fusion, config.hyper_depth, activation),
            "msa_adapter_mlp": Adapter(width, ratio, activation),
            "msa_adapter_image": Adapter(width, ratio, activation),
        }

    def forward(
        self,
        queries: Tensor,
        keys: Tensor,
        query_point_embedding: Tensor,
        key_point_embedding: Tensor,
        attention_similarity: Tensor | None = None,
        **kwargs,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """queries (N, P, T, C): output tokens, then prompt tokens; keys (N, P, HW, C) -> queries, keys, attention."""
        block = self.base_layer
        if self.is_plain:
            return block.forward(
                queries=queries,
                keys=keys,
                query_point_embedding=query_point_embedding,
                key_point_embedding=key_point_embedding,
                attention_similarity=attention_similarity,
                **kwargs,
            )
        if block.skip_first_layer_pe:
            queries, _ = block.self_attn(query=queries, key=queries, value=queries)
        else:
            query = queries + query_point_embedding
            queries = queries + block.self_attn(query=query, key=query, value=queries)[0]
        queries = block.layer_norm1(queries)

        tokens, _ = block.cross_attn_token_to_image(
            query=queries + query_point_embedding,
            key=keys + key_point_embedding,
            value=keys,
            attention_similarity=attention_similarity,
        )
        output_tokens = 2 + block.self_attn.config.num_multimask_outputs  # IoU, single mask, multi-masks
        prompts = query_point_embedding[..., output_tokens:, :]
        tokens = self.plus_adapted(tokens, "msa_adapter_token", tokens, prompts)
        queries = block.layer_norm2(queries + tokens)

        queries = block.layer_norm3(self.plus_adapted(queries + block.mlp(queries), "msa_adapter_mlp", queries))

        attention, _ = block.cross_attn_image_to_token(
            query=keys + key_point_embedding, key=queries + query_point_embedding, value=queries
        )
        keys = keys + attention
        keys = block.layer_norm4(self.plus_adapted(keys, "msa_adapter_image", keys))
        return queries, keys, attention
