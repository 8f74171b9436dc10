"""What decoding is measured on: random models of every layout in one shape, and their caches."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from transformers import DynamicCache, LlamaConfig, LlamaForCausalLM, MistralConfig, MistralForCausalLM, PreTrainedModel

from gqasearch.checkpoints.remote.modeling_ragged import RaggedLlamaConfig, RaggedLlamaForCausalLM

KINDS = ("mha", "uniform", "padded", "ragged", "joined", "apart")
JOINED = 2  # heads of the size of so many, in place of as many: the same cache
BASELINE = "uniform"


@dataclass(frozen=True)
class Shape:
    """A Llama's sizes; ``sizes``: heads of every group, which are not equal."""

    layers: int
    hidden: int
    heads: int
    mlp: int
    vocabulary: int
    sizes: tuple[int, ...]

    @property
    def groups(self) -> int:
        return len(self.sizes)

    @property
    def head_dim(self) -> int:
        return self.hidden // self.heads

    @property
    def pairs(self) -> list[tuple[int, int, int]]:
        """(key head, value head, query heads that read both) of keys and values apart: two partitions of these sizes.

        Of two groups next to each other, half the queries of the smaller have their value in the other: two pairs a
        head, as searches with ``--separate-kv`` find.
        """
        found = []
        for first in range(0, self.groups, 2):
            a, b = self.sizes[first : first + 2]
            crossed = b // 2
            shares = ((0, 0, a - crossed), (0, 1, crossed), (1, 0, crossed), (1, 1, b - crossed))
            found += [(first + key, first + value, size) for key, value, size in shares if size]
        return found

    def kv_heads(self, kind: str) -> tuple[int, int]:
        """Number and size of the KV heads of a layer."""
        if kind == "joined":
            return self.groups // JOINED, self.head_dim * JOINED
        return self.heads if kind == "mha" else self.groups, self.head_dim


# Sizes as searches find them: the largest group has 1.5 times the mean.
SHAPES = {
    "tiny": Shape(2, 64, 8, 128, 100, (3, 3, 1, 1)),
    "small": Shape(8, 1024, 16, 2816, 8000, (6, 4, 3, 3)),
    "llama-2-7b": Shape(32, 4096, 32, 11008, 32000, (6, 6, 5, 4, 4, 3, 2, 2)),
}


def make_model(kind: str, shape: Shape, device: str, dtype: torch.dtype) -> PreTrainedModel:
    """Random weights, made on the device."""
    settings: dict[str, Any] = {
        "num_hidden_layers": shape.layers,
        "hidden_size": shape.hidden,
        "intermediate_size": shape.mlp,
        "vocab_size": shape.vocabulary,
        "max_position_embeddings": 1 << 17,
        "attn_implementation": "sdpa",
        "num_attention_heads": shape.groups * max(shape.sizes) if kind == "padded" else shape.heads,
        "num_key_value_heads": shape.kv_heads(kind)[0],
        "head_dim": shape.kv_heads(kind)[1],
        "dtype": dtype,
    }
    if kind == "ragged":
        settings["kv_group_sizes"] = [list(shape.sizes)] * shape.layers
        settings["num_key_value_heads_per_layer"] = [shape.groups] * shape.layers
    if kind == "apart":
        settings["kv_group_sizes"] = [[size for _, _, size in shape.pairs]] * shape.layers
        settings["kv_group_heads"] = [[[key, value] for key, value, _ in shape.pairs]] * shape.layers
        settings["num_key_value_heads_per_layer"] = [shape.groups] * shape.layers
    classes: dict[str, tuple[Any, Any]] = {
        "ragged": (RaggedLlamaConfig, RaggedLlamaForCausalLM),
        "apart": (RaggedLlamaConfig, RaggedLlamaForCausalLM),
        "padded": (MistralConfig, MistralForCausalLM),
        "joined": (MistralConfig, MistralForCausalLM),
    }
    config_class, model_class = classes.get(kind, (LlamaConfig, LlamaForCausalLM))
    if kind in ("padded", "joined"):
        settings["sliding_window"] = None
    if kind == "joined":
        factors = [1.0] * (shape.kv_heads(kind)[1] // 2)
        own = {"original_max_position_embeddings": 1 << 17, "attention_factor": 1.0}
        both = {"short_factor": factors, "long_factor": factors}
        settings["rope_parameters"] = {"rope_type": "longrope", "rope_theta": 10000.0, **own, **both}
    default = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        with torch.device(device):
            model: PreTrainedModel = model_class(config_class(**settings)).eval()
    finally:
        torch.set_default_dtype(default)
    return model


def share_weights(models: dict[str, PreTrainedModel]) -> None:
    """Let all models hold the baseline's tensors, where names and shapes agree."""
    shared = dict(models[BASELINE].named_parameters())
    for model in models.values():
        for name, parameter in model.named_parameters():
            if parameter.shape == shared[name].shape:
                parameter.data = shared[name].data


def filled_cache(model: PreTrainedModel, shape: Shape, kind: str, batch: int, context: int) -> DynamicCache:
    """Random keys and values of ``context`` tokens."""
    heads, size_of_head = shape.kv_heads(kind)
    cache, parameter = DynamicCache(), next(model.parameters())
    for layer in range(shape.layers):
        size = (batch, heads, context, size_of_head)
        keys, values = (torch.randn(size, device=parameter.device, dtype=parameter.dtype) for _ in range(2))
        cache.update(keys, values, layer)
    return cache


def cache_bytes(cache: DynamicCache) -> int:
    """Of all keys and values that it holds."""
    return sum(int(getattr(layer, name).nbytes) for layer in cache.layers for name in ("keys", "values"))
