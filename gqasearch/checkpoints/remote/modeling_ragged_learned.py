"""OPT and GPT-2 with grouped-query attention: every layer its own number of KV heads, every group its own size.

Transformers models of their own (load them with ``trust_remote_code=True``): stock but for the attention, since stock
OPT and GPT-2 cache a key and a value for every query head. Positions are learned and added to the embeddings, so
nothing turns a key. Written by gqasearch; needs torch and transformers 5, nothing else.

``config.kv_group_sizes[l]`` lists the query heads of every KV head of layer ``l``. The layer holds weights
for its real heads only, query heads in the order of their groups, and caches its own KV heads, no copies.
Attention kernels want as many query heads for each KV head, so around the kernel, and nowhere else, every
group gets as many slots as the layer's largest:

    groups of 3 and 1       q0 q1 q2 | q3       -> gather ->       q0 q1 q2 | q3 q3 q3       -> attend, gather back
                            k0       | k1                          k0       | k1

Where keys and values were grouped apart, a group is of the queries that read one key head and one value head, which
``config.kv_group_heads[l]`` names: [key head, value head]. The cache holds each of these heads once; a layer that
attends makes a copy for every group, and drops it.

GPT-2 stores q, k and v together, here as everywhere: ``c_attn`` (D, (Hq + its key and value heads) d), outputs in the
order q, k, v.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers import GPT2Config, GPT2LMHeadModel, OPTConfig, OPTForCausalLM, PreTrainedConfig
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS
from transformers.models.gpt2.modeling_gpt2 import GPT2Attention
from transformers.models.llama.modeling_llama import eager_attention_forward
from transformers.models.opt.modeling_opt import OPTAttention
from transformers.pytorch_utils import Conv1D


def check_groups(config: Any) -> None:
    """Fill in or check the groups of every layer; raises ``ValueError`` that names the layer.

    Without groups they are those of a stock model: every query head has a KV head of its own.
    """
    layers, heads = config.num_hidden_layers, config.num_attention_heads
    if config.kv_group_sizes is None and config.num_key_value_heads_per_layer is None:
        config.kv_group_sizes = [[1] * heads for _ in range(layers)]
        config.num_key_value_heads_per_layer = [heads] * layers
    for name in ("kv_group_sizes", "num_key_value_heads_per_layer"):
        given = getattr(config, name)
        if not isinstance(given, (list, tuple)) or len(given) != layers:
            raise ValueError(f"{name} must list one entry for each of the {layers} layers, got {given!r}")
    for layer, (sizes, count) in enumerate(
        zip(config.kv_group_sizes, config.num_key_value_heads_per_layer, strict=True)
    ):
        if not isinstance(sizes, (list, tuple)) or not all(type(size) is int and size > 0 for size in sizes):
            raise ValueError(f"kv_group_sizes[{layer}] must list whole numbers from 1, got {sizes!r}")
        if sum(sizes) != heads:
            raise ValueError(f"kv_group_sizes[{layer}] must add up to {heads} attention heads, got {sizes!r}")
        if config.kv_group_heads is not None:
            check_heads(config.kv_group_heads, layer, len(sizes), count, layers)
        elif count != len(sizes):
            raise ValueError(f"num_key_value_heads_per_layer[{layer}] is {count}, kv_group_sizes has {len(sizes)}")


def check_heads(given: Any, layer: int, groups: int, key_heads: int, layers: int) -> None:
    """Check the key head and the value head of every group of a layer; raises ``ValueError`` that names it."""
    if not isinstance(given, (list, tuple)) or len(given) != layers:
        raise ValueError(f"kv_group_heads must list one entry for each of the {layers} layers, got {given!r}")
    heads = given[layer]
    if not isinstance(heads, (list, tuple)) or len(heads) != groups:
        raise ValueError(f"kv_group_heads[{layer}] must have an entry for each of {groups} groups, got {heads!r}")
    if not all(isinstance(two, (list, tuple)) and [type(head) for head in two] == [int, int] for two in heads):
        raise ValueError(f"kv_group_heads[{layer}] must list pairs [key head, value head], got {heads!r}")
    keys, values = (set(side) for side in zip(*heads, strict=True))
    if keys != set(range(key_heads)) or values != set(range(len(values))):
        raise ValueError(
            f"kv_group_heads[{layer}] must name each of {key_heads} key heads (num_key_value_heads_per_layer) and "
            f"every value head from 0 on, got {heads!r}"
        )


@dataclass(kw_only=True)
class RaggedGroups:
    """Goes before a stock config class: query heads of every KV head, by layer, and the numbers of KV heads.

    With ``kv_group_heads`` these are the numbers of key heads.
    """

    num_key_value_heads_per_layer: list[int] | None = None
    kv_group_sizes: list[list[int]] | None = None
    kv_group_heads: list[list[list[int]]] | None = None
    head_dim: int | None = None  # None: hidden size / attention heads

    def __post_init__(self, **kwargs: Any) -> None:
        super().__post_init__(**kwargs)  # type: ignore[misc]
        check_groups(self)


class RaggedOPTConfig(RaggedGroups, OPTConfig):
    """An OPT's, and the groups."""

    model_type = "ragged_opt"


class RaggedGPT2Config(RaggedGroups, GPT2Config):
    """A GPT-2's, and the groups. ``add_cross_attention`` is refused: the groups are of self-attention alone."""

    model_type = "ragged_gpt2"

    def __post_init__(self, **kwargs: Any) -> None:
        super().__post_init__(**kwargs)
        if self.add_cross_attention:
            raise ValueError("add_cross_attention must be false: kv_group_sizes has no groups of cross-attention")


def upcast_attention_forward(
    module: nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, **kwargs: Any
) -> tuple[Tensor, Tensor]:
    """Eager attention computed in float32 whatever comes in: GPT-2's ``reorder_and_upcast_attn``."""
    with torch.autocast(query.device.type, enabled=False):
        out, maps = eager_attention_forward(module, query.float(), key.float(), value.float(), attention_mask, **kwargs)
    return out.to(value.dtype), maps.to(value.dtype)


class RaggedAttention(nn.Module):
    """Goes before a stock attention class, whose projections and settings it keeps but for the width of k and v."""

    config: Any
    head_dim: int
    layer_idx: int | None
    eager: Callable[..., tuple[Tensor, Tensor]] = staticmethod(eager_attention_forward)

    def __init__(self, config: PreTrainedConfig, layer_idx: int) -> None:
        super().__init__(config, layer_idx=layer_idx)
        self.group_sizes: Sequence[int] = self.config.kv_group_sizes[layer_idx]
        self.head_dim = self.config.head_dim or self.head_dim
        apart = self.config.kv_group_heads
        # The key head and the value head of every group.
        self.group_heads = [[g, g] for g in range(len(self.group_sizes))] if apart is None else apart[layer_idx]
        self.are_apart = apart is not None
        self.key_heads, self.value_heads = (1 + max(heads) for heads in zip(*self.group_heads, strict=True))
        self.num_key_value_groups = max(self.group_sizes)  # what attention functions repeat KV heads by
        # No buffers: those that are in no file are left without values by from_pretrained.
        self._indices: dict[torch.device, tuple[Tensor, Tensor]] = {}
        self._heads: dict[torch.device, Tensor] = {}

    def indices(self, device: torch.device) -> tuple[Tensor, Tensor]:
        """The query of every slot (G * M,) and the slot of every query (Hq,), on ``device``."""
        if device not in self._indices:
            room, first = self.num_key_value_groups, 0
            query_of_slot: list[int] = []
            slot_of_query: list[int] = []
            for group, size in enumerate(self.group_sizes):
                slot_of_query += range(group * room, group * room + size)
                # A spare slot holds the group's last query once more: what it attends to is dropped.
                query_of_slot += [first + min(place, size - 1) for place in range(room)]
                first += size
            with torch.inference_mode(False):  # else training could not use what generation left here
                self._indices[device] = (
                    torch.tensor(query_of_slot, device=device),
                    torch.tensor(slot_of_query, device=device),
                )
        return self._indices[device]

    def heads_by_group(self, device: torch.device) -> Tensor:
        """The key head and the value head of every group, (2, G), on ``device``."""
        if device not in self._heads:
            with torch.inference_mode(False):
                self._heads[device] = torch.tensor(self.group_heads, device=device).T.contiguous()
        return self._heads[device]

    def by_head(self, projected: Tensor) -> Tensor:
        """(B, T, heads * d) -> (B, heads, T, d)."""
        heads: Tensor = projected.unflatten(-1, (-1, self.head_dim))
        return heads.transpose(1, 2)

    def attend(
        self, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, cache: Any, **kwargs: Any
    ) -> tuple[Tensor, Tensor | None]:
        """Out (B, T, Hq * d) and the attention maps (B, Hq, T, S), where the kernel gives any.

        ``query`` (B, Hq, T, d); ``key``, ``value`` (B, their heads, T, d), of the new tokens, which go into ``cache``.
        """
        if cache is not None:
            key, value = cache.update(key, value, self.layer_idx)
        if self.are_apart:
            keys, values = self.heads_by_group(key.device)
            key, value = key.index_select(1, keys), value.index_select(1, values)
        query_of_slot, slot_of_query = self.indices(query.device)
        kernel = self.config._attn_implementation  # noqa: SLF001 - as stock attention does
        attention = ALL_ATTENTION_FUNCTIONS.get_interface(kernel, self.eager)
        out, maps = attention(self, query.index_select(1, query_of_slot), key, value, mask, **kwargs)
        out = out.index_select(2, slot_of_query).flatten(2)  # (B, T, slots, d) before
        return out, None if maps is None else maps.index_select(1, slot_of_query)


class RaggedOPTAttention(RaggedAttention, OPTAttention):
    """OPT's."""

    def __init__(self, config: PreTrainedConfig, layer_idx: int) -> None:
        super().__init__(config, layer_idx)
        self.scaling = self.head_dim**-0.5
        for name, heads in (("q_proj", self.num_heads), ("k_proj", self.key_heads), ("v_proj", self.value_heads)):
            setattr(self, name, nn.Linear(self.embed_dim, heads * self.head_dim, bias=self.enable_bias))
        self.out_proj = nn.Linear(self.num_heads * self.head_dim, self.embed_dim, bias=self.enable_bias)

    def forward(  # type: ignore[override]  # what stock attention is called with and gives, not what it says
        self,
        hidden_states: Tensor,
        past_key_values: Any = None,
        attention_mask: Tensor | None = None,
        output_attentions: bool = False,
        **kwargs: Any,
    ) -> tuple[Tensor, Tensor | None]:
        """As the stock attention: (B, T, D) -> (B, T, D), and the attention maps (B, Hq, T, S) where there are any."""
        out, maps = self.attend(
            self.by_head(self.q_proj(hidden_states) * self.scaling),  # before the product, as stock: float16 overflows
            self.by_head(self.k_proj(hidden_states)),
            self.by_head(self.v_proj(hidden_states)),
            attention_mask,
            past_key_values,
            dropout=self.dropout if self.training else 0.0,
            scaling=1.0,
            **kwargs,
        )
        return self.out_proj(out), maps


class RaggedGPT2Attention(RaggedAttention, GPT2Attention):
    """GPT-2's."""

    def __init__(self, config: PreTrainedConfig, layer_idx: int) -> None:
        super().__init__(config, layer_idx)
        if self.scale_attn_weights and not self.scale_attn_by_inverse_layer_idx:
            self.scaling = self.head_dim**-0.5
        self.widths = tuple(heads * self.head_dim for heads in (self.num_heads, self.key_heads, self.value_heads))
        self.c_attn = Conv1D(sum(self.widths), self.embed_dim)
        self.c_proj = Conv1D(self.embed_dim, self.widths[0])
        if self.reorder_and_upcast_attn:  # which stock attention, too, heeds in its eager form alone
            self.eager = upcast_attention_forward

    def forward(  # type: ignore[override]  # what stock attention is called with and gives, not what it says
        self,
        hidden_states: Tensor,
        past_key_values: Any = None,
        attention_mask: Tensor | None = None,
        output_attentions: bool = False,
        **kwargs: Any,
    ) -> tuple[Tensor, Tensor | None]:
        """As the stock attention: (B, T, D) -> (B, T, D), and the attention maps (B, Hq, T, S) where there are any."""
        query, key, value = map(self.by_head, self.c_attn(hidden_states).split(self.widths, dim=2))
        out, maps = self.attend(
            query,
            key,
            value,
            attention_mask,
            past_key_values,
            dropout=self.attn_dropout.p if self.training else 0.0,
            scaling=self.scaling,
            **kwargs,
        )
        return self.resid_dropout(self.c_proj(out)), maps


class RaggedOPTForCausalLM(OPTForCausalLM):
    """OPT with ragged groups: a stock model, then every layer's attention is replaced."""

    config_class = RaggedOPTConfig

    def __init__(self, config: RaggedOPTConfig) -> None:
        super().__init__(config)
        for index, layer in enumerate(self.model.decoder.layers):
            layer.self_attn = RaggedOPTAttention(config, index)
        self.post_init()  # type: ignore[no-untyped-call]  # once more, for the new weights


class RaggedGPT2ForCausalLM(GPT2LMHeadModel):
    """GPT-2 with ragged groups: a stock model, then every layer's attention is replaced."""

    config_class = RaggedGPT2Config

    def __init__(self, config: RaggedGPT2Config) -> None:
        super().__init__(config)
        for index, block in enumerate(self.transformer.h):
            block.attn = RaggedGPT2Attention(config, index)
        self.post_init()  # type: ignore[no-untyped-call]  # once more, for the new weights
