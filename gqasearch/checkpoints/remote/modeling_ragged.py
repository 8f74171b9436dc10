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

Where keys and values were grouped apart, a group is of the queries that read one key head and one value head, which
``config.kv_group_heads[l]`` names: [key head, value head]. The cache holds each of these heads once; a layer that
attends makes a copy for every group, and drops it.
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
from transformers.conversion_mapping import get_checkpoint_conversion_mapping, register_checkpoint_conversion_mapping
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

# The name under which stock attention finds ``ragged_attention``; another file of this kind has another.
ATTENTION = f"ragged of {__name__}"
# Attention functions to which the order of queries means nothing but for the mask and ``is_causal``.
PACKABLE = ("eager", "sdpa")


def check_groups(config: Any) -> None:
    """Fill in or check the groups of every layer; raises ``ValueError`` that names the layer.

    Without groups they are those of a stock model: ``num_key_value_heads`` of equal size in every layer.
    """
    text = config.get_text_config()  # of a model that reads images, too, its text tower's
    layers, heads, uniform = text.num_hidden_layers, text.num_attention_heads, text.num_key_value_heads
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

    base_model_tp_plan: ClassVar[Any] = None  # unequal groups cannot be dealt out to devices evenly

    def __post_init__(self, **kwargs: Any) -> None:
        super().__post_init__(**kwargs)  # type: ignore[misc]
        check_groups(self)


class LayerGroups:
    """The groups of one layer: ``runs`` of equal size as (size, query heads, KV heads), and slots for one token.

    ``heads``: the key head and the value head of every group; None where group g has those number g.
    """

    def __init__(self, sizes: Sequence[int], heads: Sequence[Sequence[int]] | None = None) -> None:
        self.sizes, self.largest = tuple(sizes), max(sizes)
        self.heads = None if heads is None else tuple(map(tuple, heads))
        self.runs: list[tuple[int, slice, slice]] = []
        query = head = 0
        for size, groups in groupby(sizes):
            count = len(list(groups))
            self.runs.append((size, slice(query, query + count * size), slice(head, head + count)))
            query, head = query + count * size, head + count
        # No buffers: those that are in no file are left without values by from_pretrained.
        self._slots: dict[torch.device, tuple[Tensor, Tensor]] = {}
        self._heads: dict[torch.device, Tensor] = {}

    def key_heads(self) -> int:
        """How many key heads the layer has."""
        return len(self.sizes) if self.heads is None else 1 + max(key for key, _ in self.heads)

    def value_heads(self) -> int:
        """How many value heads the layer has."""
        return len(self.sizes) if self.heads is None else 1 + max(value for _, value in self.heads)

    def by_group(self, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        """The key and the value of every group, (B, G, S, d), from those of every head."""
        if self.heads is None:
            return key, value
        if key.device not in self._heads:
            with torch.inference_mode(False):
                self._heads[key.device] = torch.tensor(self.heads, device=key.device).T.contiguous()
        keys, values = self._heads[key.device]
        return key.index_select(1, keys), value.index_select(1, values)

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
    """An attention function around the model's own: query (B, Hq, T, d), key and value (B, their heads, S, d).

    The output (B, T, Hq, d), and the attention maps (B, Hq, T, S) where there are any. Raises ``ValueError`` for the
    cache of continuous batching.
    """
    if options.get("cache") is not None:  # which attention functions fill themselves, with all heads at once
        raise ValueError("ragged groups cannot be decoded with the paged cache of continuous batching; use generate()")
    layer: Any = module.config
    config, groups = layer.of, layer.groups
    key, value = groups.by_group(key, value)
    kernel = config._attn_implementation  # noqa: SLF001 - as stock attention does
    attend = ALL_ATTENTION_FUNCTIONS.get_interface(kernel, layer.eager_attention)
    sinks = options.pop("s_aux", None)  # one for each query head, which some functions take from the module instead

    def attend_grouped(size: int, of: Any, *heads: Tensor, **options: Any) -> tuple[Tensor, Tensor | None]:
        """Attention of ``size`` query heads to each KV head; ``of``: which query heads they are."""
        own: dict[str, Any] = {"config": config, "num_key_value_groups": size}
        if sinks is not None:
            own["sinks"] = options["s_aux"] = sinks[of]
        out: tuple[Tensor, Tensor | None]
        out = attend(Seen(module, **own), *heads, mask, **options)
        return out

    if query.shape[2] > 1:
        parts = [
            attend_grouped(size, queries, query[:, queries], key[:, heads], value[:, heads], **options)
            for size, queries, heads in groups.runs
        ]
        every = [maps for _, maps in parts if maps is not None]
        return torch.cat([out for out, _ in parts], 2), torch.cat(every, 1) if every else None
    query_of_slot, slot_of_query = groups.slots(query.device)
    slots = query.index_select(1, query_of_slot)
    if kernel in PACKABLE and sinks is None:  # the queries of a group as so many tokens of one head
        packed = slots.view(len(slots), -1, groups.largest, slots.shape[-1])
        out, maps = attend_grouped(1, None, packed, key, value, **{**options, "is_causal": False})
        out = out.transpose(1, 2).flatten(1, 2).unsqueeze(1)
        maps = None if maps is None else maps.flatten(1, 2).unsqueeze(2)
    else:
        out, maps = attend_grouped(groups.largest, query_of_slot, slots, key, value, **options)
    return out.index_select(2, slot_of_query), None if maps is None else maps.index_select(1, slot_of_query)


# Masks are made by the model, for the attention function that its own config names, and passed on as they are.
AttentionInterface.register(ATTENTION, ragged_attention)


class RaggedModel(PreTrainedModel):
    """Goes before a stock model class: a stock model, then every layer's attention is made anew, for its own groups."""

    def __init__(self, config: PreTrainedConfig) -> None:
        super().__init__(config)
        heads = config.kv_group_heads or [None] * len(config.kv_group_sizes)
        towers = (getattr(self.model, name, None) for name in ("language_model", "text_model"))
        decoder, text = next((one for one in towers if one is not None), self.model), config.get_text_config()
        for index, (layer, sizes) in enumerate(zip(decoder.layers, config.kv_group_sizes, strict=True)):
            if not hasattr(layer, "self_attn"):  # it attends to an image alone
                continue
            attention, groups = type(layer.self_attn), LayerGroups(sizes, heads[index])
            own = Seen(
                text,
                num_key_value_heads=groups.key_heads(),
                groups=groups,
                eager_attention=sys.modules[attention.__module__].eager_attention_forward,
                _attn_implementation=ATTENTION,
            )
            layer.self_attn = attention(own, index)
            more_values = groups.value_heads() - groups.key_heads()
            if more_values:
                widen(layer.self_attn, more_values * layer.self_attn.head_dim)
        self.post_init()  # type: ignore[no-untyped-call]  # once more, for the new weights


def widen(attention: nn.Module, more: int) -> None:
    """Give the projection that values come from, or q, k and v in this order, so many outputs more (or fewer)."""
    name = "v_proj" if hasattr(attention, "v_proj") else "qkv_proj"
    old = getattr(attention, name)
    setattr(attention, name, nn.Linear(old.in_features, old.out_features + more, bias=old.bias is not None))


def ragged(config: type[Any], model: type[Any]) -> tuple[type[Any], type[Any]]:
    """``RaggedNAMEConfig`` and ``RaggedNAMEForCausalLM``, from the stock classes of NAME.

    Of one that reads images, too, ``RaggedNAMETowerConfig`` and ``RaggedNAMEForConditionalGeneration``.
    """
    made = f"Ragged{model.__name__}"
    name = model.__name__.removesuffix("ForCausalLM").replace("ForConditionalGeneration", "Tower")
    own = type(f"Ragged{name}Config", (RaggedGroups, config), {"model_type": f"ragged_{name.lower()}"})
    mappings = (get_checkpoint_conversion_mapping(one) for one in (model.__name__, config.model_type))
    found = next((mapping for mapping in mappings if mapping is not None), None)
    if found is not None:  # as of experts, which the stock model holds together and files one by one
        register_checkpoint_conversion_mapping(made, found, overwrite=True)
    return own, type(made, (RaggedModel, model), {"config_class": own})


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


def __getattr__(name: str) -> Any:
    """The classes of every other architecture, made when they are first asked for: newer ones need newer versions."""
    of, model = name.removeprefix("Ragged"), "ForCausalLM"
    if of.endswith(("TowerConfig", "ForConditionalGeneration")):
        model = "ForConditionalGeneration"
    of = of.removesuffix(model).removesuffix("Config").removesuffix("Tower" if model != "ForCausalLM" else "")
    if not hasattr(transformers, f"{of}{model}"):
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    made = ragged(getattr(transformers, f"{of}Config"), getattr(transformers, f"{of}{model}"))
    globals().update({kind.__name__: kind for kind in made})
    if name not in globals():
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return globals()[name]
