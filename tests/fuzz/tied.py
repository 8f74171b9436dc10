"""The parent with tied heads, made without gqasearch: mean K and V of a group, put into transformers' own modules."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

Groups = Sequence[Sequence[int]]  # group -> heads


def tie(model: PreTrainedModel, groups: Sequence[tuple[Groups, Groups]], stored: torch.dtype) -> None:
    """Give all heads of a group the mean of their keys, or of their values, rounded to ``stored``, in place.

    ``groups``: of the keys and of the values of every layer.
    """
    layers = _layers(model)
    with torch.no_grad():
        for layer, sides in zip(layers, groups, strict=True):
            for views, its_groups in zip(_key_and_value_heads(layer, model.config), sides, strict=True):
                for heads_of, group in product(views, its_groups):
                    heads = list(group)
                    if len(heads) > 1:
                        heads_of[heads] = heads_of[heads].mean(0).to(stored).to(heads_of.dtype)


def _layers(model: PreTrainedModel) -> Any:
    inner: Any = getattr(model, model.base_model_prefix)
    inner = getattr(inner, "decoder", inner)
    return inner.layers if hasattr(inner, "layers") else inner.h


def _key_and_value_heads(layer: Any, config: Any) -> tuple[list[Tensor], list[Tensor]]:
    """Views (H, d, ...) of every tensor that holds keys, and of every one that holds values."""
    attention = next(
        getattr(layer, name) for name in ("self_attn", "attention", "self_attention", "attn") if hasattr(layer, name)
    )
    heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
    if config.model_type == "falcon":
        heads = config.num_kv_heads
    if hasattr(attention, "k_proj"):
        keys, values = (
            [_by_head(tensor, heads) for tensor in (one.weight, one.bias) if tensor is not None]
            for one in (attention.k_proj, attention.v_proj)
        )
        return keys, values
    if config.model_type == "gpt2":
        width = config.n_embd
        weight, bias = attention.c_attn.weight.data, attention.c_attn.bias.data  # (D, 3 D), (3 D,)
        keys, values = (
            [_by_head(weight[:, part].T, heads), _by_head(bias[part], heads)]
            for part in (slice(width, 2 * width), slice(2 * width, 3 * width))
        )
        return keys, values
    fused = attention.qkv_proj if config.model_type == "phi3" else attention.query_key_value
    found = [_fused(tensor.data, config, heads) for tensor in (fused.weight, fused.bias) if tensor is not None]
    return [keys for keys, _ in found], [values for _, values in found]


def _fused(tensor: Tensor, config: Any, heads: int) -> tuple[Tensor, Tensor]:
    """K and V in a tensor whose rows are of queries, keys and values."""
    if config.model_type == "phi3":  # all queries, all keys, all values
        d = config.hidden_size // config.num_attention_heads
        first = config.num_attention_heads * d
        keys, values = (_by_head(tensor[start : start + heads * d], heads) for start in (first, first + heads * d))
        return keys, values
    per_head = 3 if config.model_type == "gpt_neox" else config.num_attention_heads // heads + 2  # queries, key, value
    by_head = tensor.view(heads, per_head, -1, *tensor.shape[1:])
    return by_head[:, -2], by_head[:, -1]


def _by_head(tensor: Tensor, heads: int) -> Tensor:
    return tensor.detach().unflatten(0, (heads, -1))
