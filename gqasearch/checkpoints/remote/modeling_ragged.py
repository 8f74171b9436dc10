"""Grouped-query attention in which every layer has its own number of KV heads, and every group its own size.

A transformers model of its own (load it with ``trust_remote_code=True``): a stock Llama, Mistral, Qwen2 or
Qwen3 but for the attention. Written by gqasearch; needs torch and transformers 5, nothing else.

``config.kv_group_sizes[l]`` lists the query heads of every KV head of layer ``l``. The layer holds weights
for its real heads only, query heads in the order of their groups, and caches its own KV heads, no copies.
Attention kernels want as many query heads for each KV head, so around the kernel, and nowhere else, every
group gets as many slots as the layer's largest:

    groups of 3 and 1       q0 q1 q2 | q3       -> gather ->       q0 q1 q2 | q3 q3 q3       -> attend, gather back
                            k0       | k1                          k0       | k1
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    PreTrainedConfig,
    PreTrainedModel,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
)
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS
from transformers.models.llama.modeling_llama import LlamaAttention, apply_rotary_pos_emb, eager_attention_forward
from transformers.models.mistral.modeling_mistral import MistralAttention
from transformers.models.qwen2.modeling_qwen2 import Qwen2Attention
from transformers.models.qwen3.modeling_qwen3 import Qwen3Attention


def check_groups(config: Any) -> None:
    """Fill in or check the groups of every layer; raises ``ValueError`` that names the layer.

    Without groups they are those of a stock model: ``num_key_value_heads`` of equal size in every layer.
    """
    layers, heads, uniform = config.num_hidden_layers, config.num_attention_heads, config.num_key_value_heads
    if config.kv_group_sizes is None and config.num_key_value_heads_per_layer is None:
        if heads % uniform:
            raise ValueError(f"num_key_value_heads={uniform} does not divide num_attention_heads={heads}")
        config.kv_group_sizes = [[heads // uniform] * uniform for _ in range(layers)]
        config.num_key_value_heads_per_layer = [uniform] * layers
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
            raise ValueError(f"kv_group_sizes[{layer}] must add up to num_attention_heads={heads}, got {sizes!r}")
        if count != len(sizes):
            raise ValueError(f"num_key_value_heads_per_layer[{layer}] is {count}, kv_group_sizes has {len(sizes)}")


@dataclass(kw_only=True)
class RaggedGroups:
    """Goes before a stock config class: query heads of every KV head, by layer, and the numbers of KV heads."""

    num_key_value_heads_per_layer: list[int] | None = None
    kv_group_sizes: list[list[int]] | None = None

    base_model_tp_plan: ClassVar[Any] = None  # unequal groups cannot be dealt out to devices evenly

    def __post_init__(self, **kwargs: Any) -> None:
        super().__post_init__(**kwargs)  # type: ignore[misc]
        check_groups(self)


class RaggedLlamaConfig(RaggedGroups, LlamaConfig):
    """A Llama's, and the groups."""

    model_type = "ragged_llama"


class RaggedMistralConfig(RaggedGroups, MistralConfig):
    """A Mistral's, and the groups."""

    model_type = "ragged_mistral"


class RaggedQwen2Config(RaggedGroups, Qwen2Config):
    """A Qwen2's, and the groups."""

    model_type = "ragged_qwen2"


class RaggedQwen3Config(RaggedGroups, Qwen3Config):
    """A Qwen3's, and the groups."""

    model_type = "ragged_qwen3"


class RaggedAttention(nn.Module):
    """Goes before a stock attention class, whose projections, norms and settings it keeps."""

    config: Any
    head_dim: int
    layer_idx: int
    scaling: float
    attention_dropout: Any
    q_proj: nn.Linear
    k_proj: nn.Linear
    v_proj: nn.Linear
    o_proj: nn.Linear

    def __init__(self, config: PreTrainedConfig, layer_idx: int) -> None:
        super().__init__(config, layer_idx)
        self.group_sizes: Sequence[int] = self.config.kv_group_sizes[layer_idx]
        width = len(self.group_sizes) * self.head_dim
        for name in ("k_proj", "v_proj"):
            stock: nn.Linear = getattr(self, name)
            setattr(self, name, nn.Linear(stock.in_features, width, bias=stock.bias is not None))
        self.num_key_value_groups = max(self.group_sizes)  # what attention functions repeat KV heads by
        # No buffers: those that are in no file are left without values by from_pretrained.
        self._indices: dict[torch.device, tuple[Tensor, Tensor]] = {}

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

    def forward(
        self,
        hidden_states: Tensor,
        position_embeddings: Any = None,
        attention_mask: Tensor | None = None,
        past_key_values: Any = None,
        **kwargs: Any,
    ) -> tuple[Tensor, Any]:
        """As the stock attention: (B, T, D) -> (B, T, D), and the attention maps (B, Hq, T, S) where there are any."""
        shape = (*hidden_states.shape[:-1], -1, self.head_dim)
        query, key = self.q_proj(hidden_states).view(shape), self.k_proj(hidden_states).view(shape)
        value = self.v_proj(hidden_states).view(shape).transpose(1, 2)
        query, key = self.norm_heads(query, key)
        query, key = apply_rotary_pos_emb(query.transpose(1, 2), key.transpose(1, 2), *position_embeddings)
        if past_key_values is not None:
            key, value = past_key_values.update(key, value, self.layer_idx)
        query_of_slot, slot_of_query = self.indices(query.device)
        kernel = self.config._attn_implementation  # noqa: SLF001 - as stock attention does
        attend = ALL_ATTENTION_FUNCTIONS.get_interface(kernel, eager_attention_forward)
        out, maps = attend(
            self,
            query.index_select(1, query_of_slot),
            key,
            value,
            attention_mask,
            dropout=self.attention_dropout if self.training else 0.0,
            scaling=self.scaling,
            **self.window(),
            **kwargs,
        )  # out (B, T, slots, d), maps (B, slots, T, S)
        out = out.index_select(2, slot_of_query).flatten(2)
        return self.o_proj(out), None if maps is None else maps.index_select(1, slot_of_query)

    def norm_heads(self, query: Tensor, key: Tensor) -> tuple[Tensor, Tensor]:
        """Query and key heads (B, T, heads, d), normed in models that do."""
        return query, key

    def window(self) -> dict[str, int | None]:
        """The keyword by which attention functions learn of a sliding window, for models that have one."""
        return {}


class RaggedLlamaAttention(RaggedAttention, LlamaAttention):
    """Llama's."""


class RaggedMistralAttention(RaggedAttention, MistralAttention):
    """Mistral's: one window for all layers."""

    def window(self) -> dict[str, int | None]:
        return {"sliding_window": self.config.sliding_window}


class RaggedQwen2Attention(RaggedAttention, Qwen2Attention):
    """Qwen2's: a window in some layers."""

    def window(self) -> dict[str, int | None]:
        return {"sliding_window": self.sliding_window}


class RaggedQwen3Attention(RaggedAttention, Qwen3Attention):
    """Qwen3's: normed heads, a window in some layers."""

    def norm_heads(self, query: Tensor, key: Tensor) -> tuple[Tensor, Tensor]:
        return self.q_norm(query), self.k_norm(key)

    def window(self) -> dict[str, int | None]:
        return {"sliding_window": self.sliding_window}


class RaggedModel(PreTrainedModel):
    """Goes before a stock model class: a stock model, then every layer's attention is replaced."""

    attention_class: type[RaggedAttention]

    def __init__(self, config: PreTrainedConfig) -> None:
        super().__init__(config)
        for index, layer in enumerate(self.model.layers):
            layer.self_attn = self.attention_class(config, index)
        self.post_init()  # type: ignore[no-untyped-call]  # once more, for the new weights


class RaggedLlamaForCausalLM(RaggedModel, LlamaForCausalLM):
    """Llama with ragged groups."""

    config_class = RaggedLlamaConfig
    attention_class = RaggedLlamaAttention


class RaggedMistralForCausalLM(RaggedModel, MistralForCausalLM):
    """Mistral with ragged groups."""

    config_class = RaggedMistralConfig
    attention_class = RaggedMistralAttention


class RaggedQwen2ForCausalLM(RaggedModel, Qwen2ForCausalLM):
    """Qwen2 with ragged groups."""

    config_class = RaggedQwen2Config
    attention_class = RaggedQwen2Attention


class RaggedQwen3ForCausalLM(RaggedModel, Qwen3ForCausalLM):
    """Qwen3 with ragged groups."""

    config_class = RaggedQwen3Config
    attention_class = RaggedQwen3Attention
