"""GPT-Neo, BioGPT, XGLM, GPT-BigCode and Persimmon with grouped-query attention: every layer its own number of KV
heads, every group its own size.

Transformers models of their own (load them with ``trust_remote_code=True``): stock but for the attention, since the
stock ones cache a key and a value for every query head. Written by gqasearch; needs torch and transformers 5.

``config.kv_group_sizes[l]`` lists the query heads of every KV head of layer ``l``. The layer holds weights for its real
heads only, query heads in the order of their groups, and caches its own KV heads. Stock attention, which is called as
it is, wants a key for every query head: a layer that attends makes these copies, and drops them.

GPT-BigCode and Persimmon store queries, keys and values of a layer together: head by head where every query head has
its own KV head, as the stock models do, else all queries, all keys, all values.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers import (
    BioGptConfig,
    BioGptForCausalLM,
    GPTBigCodeConfig,
    GPTBigCodeForCausalLM,
    GPTNeoConfig,
    GPTNeoForCausalLM,
    PersimmonConfig,
    PersimmonForCausalLM,
    XGLMConfig,
    XGLMForCausalLM,
)
from transformers.models.biogpt.modeling_biogpt import BioGptAttention
from transformers.models.gpt_bigcode.modeling_gpt_bigcode import GPTBigCodeAttention
from transformers.models.gpt_neo.modeling_gpt_neo import GPTNeoSelfAttention
from transformers.models.persimmon.modeling_persimmon import PersimmonAttention
from transformers.models.xglm.modeling_xglm import XGLMAttention


def check_groups(config: Any) -> None:
    """Fill in or check the groups of every layer; raises ``ValueError`` that names the layer."""
    layers, heads = config.num_hidden_layers, config.num_attention_heads
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


class RaggedBioGptConfig(RaggedGroups, BioGptConfig):
    """A BioGPT's, and the groups."""

    model_type = "ragged_biogpt"


class RaggedXGLMConfig(RaggedGroups, XGLMConfig):
    """An XGLM's, and the groups."""

    model_type = "ragged_xglm"


class RaggedGPTBigCodeConfig(RaggedGroups, GPTBigCodeConfig):
    """A GPT-BigCode's, and the groups."""

    model_type = "ragged_gptbigcode"


class RaggedPersimmonConfig(RaggedGroups, PersimmonConfig):
    """A Persimmon's, and the groups."""

    model_type = "ragged_persimmon"


def repeated(part: Tensor, sizes: list[int]) -> Tensor:
    """A copy for every query head, (B, Hq, T, d), of keys or values (B, G, T, d)."""
    # The size is told, so that nothing waits for the device.
    return part.repeat_interleave(torch.tensor(sizes, device=part.device), dim=1, output_size=sum(sizes))


class Copying:
    """Goes around the cache of a layer, or around none: keeps what it is given, and gives copies for every query head.

    ``head_dim``: of a layer that gives all its KV heads as one.
    """

    def __init__(self, cache: Any, sizes: list[int], head_dim: int) -> None:
        self.cache, self.sizes, self.head_dim = cache, sizes, head_dim

    def update(self, key: Tensor, value: Tensor, layer: int, *others: Any) -> tuple[Tensor, Tensor]:
        """As a cache has it: keys and values (B, G, T, d) of the new tokens; of all tokens (B, Hq, S, d)."""
        if key.shape[1] == 1:
            key, value = (part[:, 0].unflatten(-1, (-1, self.head_dim)).transpose(1, 2) for part in (key, value))
        if self.cache is not None:
            key, value = self.cache.update(key, value, layer, *others)
        return repeated(key, self.sizes), repeated(value, self.sizes)


class Copied(nn.Module):
    """Goes before a stock attention class, whose own code attends."""

    cache_name = "past_key_values"
    sizes: list[int]
    head_dim: int

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """As the stock attention."""
        kwargs[self.cache_name] = Copying(kwargs.get(self.cache_name), self.sizes, self.head_dim)
        return super().forward(*args, **kwargs)

    def narrow(self, sizes: list[int]) -> None:
        """Make k and v anew, as wide as the groups are many."""
        self.sizes = list(sizes)
        for name in ("k_proj", "v_proj"):
            stock = getattr(self, name)
            setattr(self, name, nn.Linear(stock.in_features, len(sizes) * self.head_dim, bias=stock.bias is not None))


class RaggedBioGptAttention(Copied, BioGptAttention):
    """BioGPT's."""


class RaggedXGLMAttention(Copied, XGLMAttention):
    """XGLM's."""


class RaggedGPTBigCodeAttention(Copied, GPTBigCodeAttention):
    """GPT-BigCode's, whose own code splits queries, keys and values as ``multi_query`` says."""

    cache_name = "layer_past"

    def narrow(self, sizes: list[int]) -> None:
        self.sizes = list(sizes)
        self.multi_query = len(sizes) < self.num_heads
        self.kv_dim = len(sizes) * self.head_dim
        self.c_attn = nn.Linear(self.embed_dim, self.embed_dim + 2 * self.kv_dim)


class RaggedPersimmonAttention(Copied, PersimmonAttention):
    """Persimmon's, whose own code norms, turns and attends what is split here."""

    def narrow(self, sizes: list[int]) -> None:
        self.sizes = list(sizes)
        self.query_key_value = nn.Linear(self.hidden_size, self.hidden_size + 2 * len(sizes) * self.head_dim)

    def _split_heads(self, fused_qkv: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Queries (B, T, Hq, d), keys and values (B, T, G, d)."""
        heads, groups = self.num_heads, len(self.sizes)
        rows = fused_qkv.unflatten(-1, (-1, self.head_dim))
        if groups == heads:
            query, key, value = rows.unflatten(2, (heads, 3)).unbind(3)
        else:
            query, key, value = rows.split((heads, groups, groups), 2)
        return query, key, value


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
        key, value = repeated(key, self.sizes), repeated(value, self.sizes)
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


class RaggedBioGptForCausalLM(BioGptForCausalLM):
    """BioGPT with ragged groups: a stock model, then every layer's attention is replaced."""

    config_class = RaggedBioGptConfig

    def __init__(self, config: RaggedBioGptConfig) -> None:
        super().__init__(config)
        sizes: Any = config.kv_group_sizes
        for index, layer in enumerate(self.biogpt.layers):
            own = RaggedBioGptAttention(
                config.hidden_size,
                config.num_attention_heads,
                config.attention_probs_dropout_prob,
                is_decoder=True,
                is_causal=True,
                config=config,
                layer_idx=index,
            )
            own.narrow(sizes[index])
            layer.self_attn = own
        self.post_init()  # type: ignore[no-untyped-call]  # once more, for the new weights


class RaggedXGLMForCausalLM(XGLMForCausalLM):
    """XGLM with ragged groups: a stock model, then every layer's attention is replaced."""

    config_class = RaggedXGLMConfig

    def __init__(self, config: RaggedXGLMConfig) -> None:
        super().__init__(config)
        sizes: Any = config.kv_group_sizes
        for index, layer in enumerate(self.model.layers):
            kind: Any = RaggedXGLMAttention
            own = kind(
                config.d_model, config.attention_heads, config.attention_dropout, is_decoder=True, layer_idx=index
            )
            own.narrow(sizes[index])
            layer.self_attn = own
        self.post_init()  # type: ignore[no-untyped-call]  # once more, for the new weights


class RaggedGPTBigCodeForCausalLM(GPTBigCodeForCausalLM):
    """GPT-BigCode with ragged groups: a stock model, then every layer's attention is replaced."""

    config_class = RaggedGPTBigCodeConfig

    def __init__(self, config: RaggedGPTBigCodeConfig) -> None:
        super().__init__(config)
        sizes: Any = config.kv_group_sizes
        for index, block in enumerate(self.transformer.h):
            kind: Any = RaggedGPTBigCodeAttention
            own = kind(config, layer_idx=index)
            own.narrow(sizes[index])
            block.attn = own
        self.post_init()  # type: ignore[no-untyped-call]  # once more, for the new weights


class RaggedPersimmonForCausalLM(PersimmonForCausalLM):
    """Persimmon with ragged groups: a stock model, then every layer's attention is replaced."""

    config_class = RaggedPersimmonConfig

    def __init__(self, config: RaggedPersimmonConfig) -> None:
        super().__init__(config)
        sizes: Any = config.kv_group_sizes
        for index, layer in enumerate(self.model.layers):
            kind: Any = RaggedPersimmonAttention
            own = kind(config, index)
            own.narrow(sizes[index])
            layer.self_attn = own
        self.post_init()  # type: ignore[no-untyped-call]  # once more, for the new weights
