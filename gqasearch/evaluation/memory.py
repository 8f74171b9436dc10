"""Memory of a model as it runs: keys and values measured, not worked out, and parameters counted."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from gqasearch.models import Family, device_of, outputs_noted
from gqasearch.rounding import parse_format

# What a model's cache takes is told in these: the formats of 8 and 4 bits that vLLM and llama.cpp have.
TOLD_FORMATS = ("fp8", "int4_per_token_head", "q8_0", "q4_0")


@dataclass(frozen=True)
class KVSize:
    """Keys and values of one token.

    ``stored``: bytes, of numbers of ``value_bits`` as the checkpoint stores them; ``heads``: cached key heads and value
    heads, all layers' together, none in an encoder; ``head_dim``: numbers of each.
    """

    stored: float
    heads: tuple[int, int]
    head_dim: int
    value_bits: int

    def by_format(self) -> Mapping[str, float]:
        """Bytes in those of ``TOLD_FORMATS`` that take heads of this size."""
        formats = [parse_format(name) for name in TOLD_FORMATS if any(self.heads)]
        taken = [kv for kv in formats if kv.refusal(self.head_dim) is None]
        return {kv.name: kv.bytes_per_token(*self.heads, self.head_dim) for kv in taken}


def cached_kv_size(model: PreTrainedModel, value_bytes: int | None = None, tokens: int = 16) -> KVSize:
    """Keys and values that one token takes in ``model``'s own cache, all layers.

    ``value_bytes``: of one number as the checkpoint stores it (``value_bytes``), whatever ``model`` computes in here;
    those of ``model`` if not given.
    """
    device = device_of(model)
    ids = torch.ones(1, tokens, dtype=torch.int64, device=device)
    with torch.no_grad():
        cache = model(input_ids=ids, use_cache=True).past_key_values
    layers = _filled(cache)
    total = sum(_bytes(tensor, value_bytes) for layer in layers for tensor in (layer.keys, layer.values))
    keys, values = (sum(int(getattr(layer, side).shape[1]) for layer in layers) for side in ("keys", "values"))
    first: Tensor = layers[0].keys
    bits = 8 * (value_bytes or first.element_size())
    return KVSize(total // tokens, (keys, values), int(first.shape[-1]), bits)


def _filled(cache: Any) -> list[Any]:
    """Layers of a cache that hold something: those that attend to an image hold nothing of a text."""
    return [layer for layer in cache.layers if layer.is_initialized]


def kv_bytes_per_token(model: PreTrainedModel, value_bytes: int | None = None, tokens: int = 16) -> int:
    """``stored`` of ``cached_kv_size``."""
    return int(cached_kv_size(model, value_bytes, tokens).stored)


def computed_kv_bytes_per_token(
    model: PreTrainedModel, family: Family, num_layers: int, value_bytes: int | None = None, tokens: int = 16
) -> int:
    """Bytes of keys and values that an encoder computes for one token of its input, all layers; it caches none.

    ``model``: of ``family``, or converted from one and its modules named alike. ``value_bytes``: as in
    ``kv_bytes_per_token``.
    """
    ids = torch.ones(1, tokens, dtype=torch.int64, device=device_of(model))
    names = [family.tensor_name(layer, f"{role}.weight") for layer in range(num_layers) for role in "kv"]
    with ExitStack() as hooks, torch.no_grad():
        projections = [model.get_submodule(name.removesuffix(".weight")) for name in names]
        noted = [hooks.enter_context(outputs_noted(projection)) for projection in projections]
        model(input_ids=ids)
        total = sum(_bytes(given, value_bytes) for calls in noted for given in calls)
    return int(total // tokens)


def _bytes(tensor: Tensor, value_bytes: int | None) -> int:
    return tensor.numel() * (tensor.element_size() if value_bytes is None else value_bytes)


def cached_kv_heads(model: PreTrainedModel, tokens: int = 4) -> list[int]:
    """KV heads that every layer of ``model`` really caches."""
    device = device_of(model)
    with torch.no_grad():
        out = model(input_ids=torch.ones(1, tokens, dtype=torch.int64, device=device), use_cache=True)
    return [int(layer.keys.shape[1]) for layer in _filled(out.past_key_values)]


def count_parameters(model: PreTrainedModel) -> int:
    """Parameters, tied ones once."""
    return sum(parameter.numel() for parameter in model.parameters())
