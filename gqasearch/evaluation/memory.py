"""Memory of a model as it runs: the KV cache measured, not computed, and parameters counted."""

from __future__ import annotations

import torch
from transformers import PreTrainedModel


def kv_bytes_per_token(model: PreTrainedModel, tokens: int = 16) -> int:
    """Bytes of keys and values that one token takes in ``model``'s own cache, all layers."""
    device = next(model.parameters()).device
    ids = torch.ones(1, tokens, dtype=torch.int64, device=device)
    with torch.no_grad():
        cache = model(input_ids=ids, use_cache=True).past_key_values
    total = 0
    for layer in cache.layers:
        total += sum(tensor.numel() * tensor.element_size() for tensor in (layer.keys, layer.values))
    return int(total // tokens)


def cached_kv_heads(model: PreTrainedModel, tokens: int = 4) -> list[int]:
    """KV heads that every layer of ``model`` really caches."""
    device = next(model.parameters()).device
    with torch.no_grad():
        out = model(input_ids=torch.ones(1, tokens, dtype=torch.int64, device=device), use_cache=True)
    return [int(layer.keys.shape[1]) for layer in out.past_key_values.layers]


def count_parameters(model: PreTrainedModel) -> int:
    """Parameters, tied ones once."""
    return sum(parameter.numel() for parameter in model.parameters())
