"""Phi 2 and 3 in GGUF files."""

from __future__ import annotations

from typing import ClassVar

from gqasearch.models.family import Config
from gqasearch.models.gguf.architecture import Architecture, common_config, layer_eps, rms_eps, without_head_dim
from gqasearch.models.gguf.keys import Keys
from gqasearch.models.gguf.rope import longrope, partial_rotary, rope_of


class Phi3(Architecture):
    """q, k and v in one tensor, gate and up in another, as transformers stores them."""

    name: ClassVar[str] = "phi3"

    def config(self, keys: Keys) -> Config:
        config = without_head_dim(common_config(keys, "Phi3ForCausalLM", "phi3"), keys)
        rope = {"rope_theta": keys.real("rope.freq_base", 10000.0)} | longrope(keys, config)
        if "rope_type" not in rope:
            rope = rope_of(keys, config)
        elif keys.word("rope.scaling.type") not in (None, "longrope"):
            rope_of(keys, config)  # for its error
        original = rope.get("original_max_position_embeddings", config["max_position_embeddings"])
        return config | {
            "rms_norm_eps": rms_eps(keys),
            "rope_parameters": rope | {"partial_rotary_factor": partial_rotary(keys, config)},
            "original_max_position_embeddings": original,
            "sliding_window": keys.count("attention.sliding_window", 0, least=0) or None,
        }


class Phi2(Architecture):
    """Phi 1 to 2: attention and MLP side by side, biases everywhere."""

    name: ClassVar[str] = "phi2"

    def config(self, keys: Keys) -> Config:
        config = without_head_dim(common_config(keys, "PhiForCausalLM", "phi"), keys)
        rope = rope_of(keys, config) | {"partial_rotary_factor": partial_rotary(keys, config)}
        return config | {
            "intermediate_size": keys.rows("blk.0.ffn_up.weight"),  # the key is 4 hidden sizes whatever the model has
            "layer_norm_eps": layer_eps(keys),
            "hidden_act": "gelu_new",
            "rope_parameters": rope,
        }
