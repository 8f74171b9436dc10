"""GPT-Neo with grouped-query attention: every layer its own number of KV heads, every group its own size.

A transformers model of its own (load it with ``trust_remote_code=True``): stock but for the attention, since stock
GPT-Neo caches a key and a value for every query head. Written by gqasearch; needs torch and transformers 5.

``config.kv_group_sizes[l]`` lists the query heads of every KV head of layer ``l``. The layer holds weights for its real
heads only, query heads in the order of their groups, and caches its own KV heads. Stock attention, which is called as
it is, wants a key for every query head: a layer that attends makes these copies, and drops them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers import GPTNeoConfig, GPTNeoForCausalLM
from transformers.models.gpt_neo.modeling_gpt_neo import GPTNeoSelfAttention


def check_groups(config: Any) -> None:
    """Fill in or check the groups of every layer; raises ``ValueError`` that names the layer."""
    layers, heads = config.num_layers, config.num_heads
    if config.kv_group_sizes is None:
        config.kv_group_sizes = [[1] * heads for _ in range(layers)]
    if not isinstance(config.kv_group_sizes, (list, tuple)) or len(config.kv_group_sizes) != layers:
        raise ValueError(f"kv_group_sizes must list one entry for each of the {layers} layers")
    for layer, sizes in enumerate(config.kv_group_sizes):
        if not isinstance(sizes, (list, tuple)) or not all(type(size) is int and size > 0 for size in sizes):
            raise ValueError(f"kv_group_sizes[{layer}] must list whole numbers from 1, got {sizes!r}")
        if sum(sizes) != heads:
            raise ValueError(f"kv_group_sizes[{layer}] must add up to {heads} attention heads, got {sizes!r}")
    counts = [len(sizes) for sizes in config.kv_group_sizes]
    if config.num_key_value_heads_per_layer is None:
        config.num_key_value_heads_per_layer = counts
    if list(config.num_key_value_heads_per_layer) != counts:
        raise ValueError(
            f"num_key_value_heads_per_layer is {config.num_key_value_heads_per_layer}, kv_group_sizes has {counts}"
        )


@dataclass(kw_only=True)
class RaggedGroups:
    """Goes before the stock config class: query heads of every KV head, by layer, and the numbers of KV heads."""

    num_key_value_heads_per_layer: list[int] | None = None
    kv_group_sizes: list[list[int]] | None = None

    def __post_init__(self, **kwargs: Any) -> None:
        super().__post_init__(**kwargs)  # type: ignore[misc]
        check_groups(self)


class RaggedGPTNeoConfig(RaggedGroups, GPTNeoConfig):
    """A GPT-Neo's, and the groups."""

    model_type = "ragged_gptneo"


class RaggedGPTNeoSelfAttention(GPTNeoSelfAttention):
    """Stock but for the width of k and v, and the copies."""

    def __init__(self, config: RaggedGPTNeoConfig, attention_type: str, layer_id: int) -> None:
        super().__init__(config, attention_type, layer_id)  # type: ignore[no-untyped-call]
        sizes: Any = config.kv_group_sizes
        self.sizes = list(sizes[layer_id])
        for name in ("k_proj", "v_proj"):
            setattr(self, name, nn.Linear(self.embed_dim, len(self.sizes) * self.head_dim, bias=False))

    def forward(  # type: ignore[override]  # what stock attention is called with and gives, not what it says
        self, hidden_states: Tensor, attention_mask: Tensor | None = None, layer_past: Any = None, **_kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        """As the stock attention: (B, T, D) -> (B, T, D), and the attention maps (B, Hq, T, S)."""
        query, key, value = (
            project(hidden_states).unflatten(-1, (-1, self.head_dim)).transpose(1, 2)
            for project in (self.q_proj, self.k_proj, self.v_proj)
        )
        if layer_past is not None:
            key, value = layer_past.update(key, value, self.layer_id)
        sizes = torch.tensor(self.sizes, device=key.device)
        heads = self.num_heads  # told, so that nothing waits for the device
        key, value = (part.repeat_interleave(sizes, dim=1, output_size=heads) for part in (key, value))
        out, maps = self._attn(query, key, value, attention_mask)  # type: ignore[no-untyped-call]
        return self.resid_dropout(self.out_proj(out.transpose(1, 2).flatten(2))), maps


class RaggedGPTNeoForCausalLM(GPTNeoForCausalLM):
    """GPT-Neo with ragged groups: a stock model, then every layer's attention is replaced."""

    config_class = RaggedGPTNeoConfig

    def __init__(self, config: RaggedGPTNeoConfig) -> None:
        super().__init__(config)
        blocks: Any = self.transformer.h
        for index, block in enumerate(blocks):
            kind = config.attention_layers[index]
            block.attn.attention = RaggedGPTNeoSelfAttention(config, kind, index)
        self.post_init()  # type: ignore[no-untyped-call]  # once more, for the new weights
