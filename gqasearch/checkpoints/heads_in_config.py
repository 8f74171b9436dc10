"""How many heads every layer of a converted checkpoint has, as its ``config.json`` says in the words of any layout."""

from __future__ import annotations

from gqasearch.models import Config, family_of, supported_architectures


def kv_heads_of(config: Config) -> list[int]:
    """KV heads of every layer, (L,); of keys where keys and values were grouped apart."""
    for field in ("num_key_value_heads_per_layer", "num_kv_heads"):
        if isinstance(config.get(field), list):
            return [int(count) for count in config[field]]
    few, layers = _of_every_layer(config)
    if "hybrid_layer_pattern" in config:
        return [int(config["swa_num_key_value_heads"] if slides else few) for slides in config["hybrid_layer_pattern"]]
    return [few] * layers


def query_heads_of(config: Config) -> list[int]:
    """Query heads of every layer, empty slots counted, (L,)."""
    if isinstance(config.get("num_query_heads"), list):
        return [int(count) for count in config["num_query_heads"]]
    return [int(config["num_attention_heads"])] * _of_every_layer(config)[1]


def _of_every_layer(config: Config) -> tuple[int, int]:
    """KV heads and layers."""
    if config["architectures"][0] in supported_architectures():
        shape = family_of(config).geometry(config)
        return shape.num_kv_heads, shape.num_layers
    return int(config.get("num_key_value_heads") or config["num_attention_heads"]), int(config["num_hidden_layers"])
