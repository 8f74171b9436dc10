"""Grouped-query attention in which every layer has its own number of KV heads, and every group its own size.

A transformers model of its own (load it with ``trust_remote_code=True``): a stock decoder with rotary embeddings but
for the one function that attends. Written by gqasearch; needs torch and transformers 5, nothing else.

``config.kv_group_sizes[l]`` lists the query heads of every KV head of layer ``l``. The layer holds weights for its
real heads only, query heads in the order of their groups, and caches its own KV heads, no copies. Attention functions
want as many query heads for each KV head. Of many tokens, groups that stand together and have one size are attended
in one call, on views. Of one token, where a call costs more than its work, every group gets as many slots as the
layer's largest, and all its queries read the group's keys and values once:

    groups of 3 and 1       q0 q1 q2 | q3       -> gather ->       q0 q1 q2 | q3 q3 q3       -> attend, gather back
                            k0       | k1                          k0       | k1
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any, ClassVar

import torch
import transformers
from torch import Tensor, nn
from transformers import AttentionInterface, PreTrainedConfig, PreTrainedModel
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

# The name under which stock attention finds ``ragged_attention``; another file of this kind has another.
ATTENTION = f"ragged of {__name__}"
# Attention functions to which the order of queries means nothing but for the mask and ``is_causal``.
PACKABLE = ("eager", "sdpa")


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


class LayerGroups:
    """The groups of one layer: ``runs`` of equal size as (size, query heads, KV heads), and slots for one token."""

    def __init__(self, sizes: Sequence[int]) -> None:
        self.sizes, self.largest = tuple(sizes), max(sizes)
        self.runs: list[tuple[int, slice, slice]] = []
        query = head = 0
        for size, groups in groupby(sizes):
            count = len(list(groups))
            self.runs.append((size, slice(query, query + count * size), slice(head, head + count)))
            query, head = query + count * size, head + count
        # No buffers: those that are in no file are left without values by from_pretrained.
        self._slots: dict[torch.device, tuple[Tensor, Tensor]] = {}

    def slots(self, device: torch.device) -> tuple[Tensor, Tensor]:
        """The query of every slot (G * largest,) and the slot of every query (Hq,), on ``device``."""
        if device not in self._slots:
            query_of_slot: list[int] = []
            slot_of_query: list[int] = []
            for group, size in enumerate(self.sizes):
                first = len(slot_of_query)
                slot_of_query += range(group * self.largest, group * self.largest + size)
                # A spare slot holds the group's last query once more: what it attends to is dropped.
                query_of_slot += [first + min(place, size - 1) for place in range(self.largest)]
            with torch.inference_mode(False):  # else training could not use what generation left here
                self._slots[device] = (
                    torch.tensor(query_of_slot, device=device),
                    torch.tensor(slot_of_query, device=device),
                )
        return self._slots[device]


class Seen:
    """``of``, but with attributes ``own`` in place of its own; what else it says follows it when it changes."""

    def __init__(self, of: Any, **own: Any) -> None:
        self.__dict__.update(own, of=of)

    def __getattr__(self, name: str) -> Any:
        if name == "of" or name.startswith("__"):  # asked for by copies that are not filled yet
            raise AttributeError(name)
        return getattr(self.of, name)


def ragged_attention(
    module: nn.Module, query: Tensor, key: Tensor, value: Tensor, mask: Any, **options: Any
) -> tuple[Tensor, Tensor | None]:
    """An attention function around the model's own: query (B, Hq, T, d), key and value (B, G, S, d).

    The output (B, T, Hq, d), and the attention maps (B, Hq, T, S) where there are any. Raises ``ValueError`` for the
    cache of continuous batching.
    """
    if options.get("cache") is not None:  # which attention functions fill themselves, with all heads at once
        raise ValueError("ragged groups cannot be decoded with the paged cache of continuous batching; use generate()")
    layer: Any = module.config
    config, groups = layer.of, layer.groups
    kernel = config._attn_implementation  # noqa: SLF001 - as stock attention does
    attend = ALL_ATTENTION_FUNCTIONS.get_interface(kernel, layer.eager_attention)

    def attend_grouped(size: int, *heads: Tensor, **options: Any) -> tuple[Tensor, Tensor | None]:
        """Attention of ``size`` query heads to each KV head."""
        out: tuple[Tensor, Tensor | None]
        out = attend(Seen(module, config=config, num_key_value_groups=size), *heads, mask, **options)
        return out

    if query.shape[2] > 1:
        parts = [
            attend_grouped(size, query[:, queries], key[:, heads], value[:, heads], **options)
            for size, queries, heads in groups.runs
        ]
        every = [maps for _, maps in parts if maps is not None]
        return torch.cat([out for out, _ in parts], 2), torch.cat(every, 1) if every else None
    query_of_slot, slot_of_query = groups.slots(query.device)
    slots = query.index_select(1, query_of_slot)
    if kernel in PACKABLE:  # the queries of a group as so many tokens of one head
        packed = slots.view(len(slots), -1, groups.largest, slots.shape[-1])
        out, maps = attend_grouped(1, packed, key, value, **{**options, "is_causal": False})
        out = out.transpose(1, 2).flatten(1, 2).unsqueeze(1)
        maps = None if maps is None else maps.flatten(1, 2).unsqueeze(2)
    else:
        out, maps = attend_grouped(groups.largest, slots, key, value, **options)
    return out.index_select(2, slot_of_query), None if maps is None else maps.index_select(1, slot_of_query)


# Masks are made by the model, for the attention function that its own config names, and passed on as they are.
AttentionInterface.register(ATTENTION, ragged_attention)


class RaggedModel(PreTrainedModel):
    """Goes before a stock model class: a stock model, then every layer's attention is made anew, for its own groups."""

    def __init__(self, config: PreTrainedConfig) -> None:
        super().__init__(config)
        for index, (layer, sizes) in enumerate(zip(self.model.layers, config.kv_group_sizes, strict=True)):
            attention = type(layer.self_attn)
            own = Seen(
                config,
                num_key_value_heads=len(sizes),
                groups=LayerGroups(sizes),
                eager_attention=sys.modules[attention.__module__].eager_attention_forward,
                _attn_implementation=ATTENTION,
            )
            layer.self_attn = attention(own, index)
        self.post_init()  # type: ignore[no-untyped-call]  # once more, for the new weights


def ragged(config: type[Any], model: type[Any]) -> tuple[type[Any], type[Any]]:
    """``RaggedNAMEConfig`` and ``RaggedNAMEForCausalLM``, from the stock classes of NAME."""
    name = model.__name__.removesuffix("ForCausalLM")
    own = type(f"Ragged{name}Config", (RaggedGroups, config), {"model_type": f"ragged_{name.lower()}"})
    return own, type(f"Ragged{name}ForCausalLM", (RaggedModel, model), {"config_class": own})


RaggedLlamaConfig, RaggedLlamaForCausalLM = ragged(transformers.LlamaConfig, transformers.LlamaForCausalLM)
RaggedMistralConfig, RaggedMistralForCausalLM = ragged(transformers.MistralConfig, transformers.MistralForCausalLM)
RaggedQwen2Config, RaggedQwen2ForCausalLM = ragged(transformers.Qwen2Config, transformers.Qwen2ForCausalLM)
RaggedQwen3Config, RaggedQwen3ForCausalLM = ragged(transformers.Qwen3Config, transformers.Qwen3ForCausalLM)
RaggedGemmaConfig, RaggedGemmaForCausalLM = ragged(transformers.GemmaConfig, transformers.GemmaForCausalLM)
RaggedGemma2Config, RaggedGemma2ForCausalLM = ragged(transformers.Gemma2Config, transformers.Gemma2ForCausalLM)
RaggedGemma3Config, RaggedGemma3ForCausalLM = ragged(transformers.Gemma3TextConfig, transformers.Gemma3ForCausalLM)
RaggedStarcoder2Config, RaggedStarcoder2ForCausalLM = ragged(
    transformers.Starcoder2Config, transformers.Starcoder2ForCausalLM
)
RaggedOlmoConfig, RaggedOlmoForCausalLM = ragged(transformers.OlmoConfig, transformers.OlmoForCausalLM)
RaggedGraniteConfig, RaggedGraniteForCausalLM = ragged(transformers.GraniteConfig, transformers.GraniteForCausalLM)
RaggedSmolLM3Config, RaggedSmolLM3ForCausalLM = ragged(transformers.SmolLM3Config, transformers.SmolLM3ForCausalLM)
RaggedCohereConfig, RaggedCohereForCausalLM = ragged(transformers.CohereConfig, transformers.CohereForCausalLM)
RaggedPhiConfig, RaggedPhiForCausalLM = ragged(transformers.PhiConfig, transformers.PhiForCausalLM)
RaggedPhi3Config, RaggedPhi3ForCausalLM = ragged(transformers.Phi3Config, transformers.Phi3ForCausalLM)
RaggedStableLmConfig, RaggedStableLmForCausalLM = ragged(transformers.StableLmConfig, transformers.StableLmForCausalLM)
