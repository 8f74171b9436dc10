"""DeciLM for transformers: a Llama in which every layer has its own number of KV heads.

A transformers model of its own (load it with ``trust_remote_code=True``). Written by gqasearch; needs torch
and transformers 5, nothing else. All layers have ``num_attention_heads`` query heads, which every entry of
``num_key_value_heads_per_layer`` divides; some of them may be zeros that fill up smaller groups.
"""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from torch import nn
from transformers import MistralConfig, MistralForCausalLM
from transformers.models.mistral.modeling_mistral import MistralAttention


class DeciLMConfig(MistralConfig):
    """A Mistral's, which is a Llama's with a free ``head_dim``, and the KV heads of every layer."""

    model_type = "deci"
    sliding_window: int | None = None  # Mistral's is 4096; vLLM makes a configuration of defaults alone
    num_key_value_heads_per_layer: list[int] | None = None

    def __post_init__(self, **kwargs: Any) -> None:
        super().__post_init__(**kwargs)  # type: ignore[no-untyped-call]
        heads, layers = self.num_attention_heads, self.num_hidden_layers
        counts: Any = self.num_key_value_heads_per_layer
        if counts is None:
            counts = self.num_key_value_heads_per_layer = [self.num_key_value_heads] * layers
        if not isinstance(counts, (list, tuple)) or len(counts) != layers:
            raise ValueError(
                f"num_key_value_heads_per_layer must list one number for each of the {layers} layers, got {counts!r}"
            )
        for layer, count in enumerate(counts):
            if type(count) is not int or count < 1 or heads % count:
                raise ValueError(
                    f"num_key_value_heads_per_layer[{layer}] must divide num_attention_heads={heads}, got {count!r}"
                )
        if self.sliding_window is not None:
            raise ValueError(f"sliding_window must be null: DeciLM has none, got {self.sliding_window!r}")

    @property
    def block_configs(self) -> list[SimpleNamespace]:
        """The layers in the words of the later DeciLM, which vLLM reads.

        vllm-project/vllm, vllm/model_executor/models/nemotron_nas.py reads from every entry attention.no_op,
        attention.n_heads_in_group (query heads of one KV head), ffn.no_op and, as there is no ffn_mult,
        ffn.intermediate_size. It must not stand in config.json: ggml-org/llama.cpp, conversion/deci.py, would
        read it, with its ffn_mult, in place of num_key_value_heads_per_layer and ``head_dim``.
        """
        return [
            SimpleNamespace(
                attention=SimpleNamespace(no_op=False, n_heads_in_group=self.num_attention_heads // count),
                ffn=SimpleNamespace(no_op=False, intermediate_size=self.intermediate_size),
            )
            for count in self.num_key_value_heads_per_layer or []
        ]


class DeciLMAttention(MistralAttention):
    """Mistral's, with as many KV heads as this layer has."""

    def __init__(self, config: DeciLMConfig, layer_idx: int) -> None:
        super().__init__(config, layer_idx)
        count = (config.num_key_value_heads_per_layer or [])[layer_idx]
        self.k_proj = nn.Linear(config.hidden_size, count * self.head_dim, bias=False)
        self.v_proj = nn.Linear(config.hidden_size, count * self.head_dim, bias=False)
        self.num_key_value_groups = config.num_attention_heads // count


class DeciLMForCausalLM(MistralForCausalLM):
    """A stock model whose attention is replaced, layer by layer."""

    config_class = DeciLMConfig

    def __init__(self, config: DeciLMConfig) -> None:
        super().__init__(config)
        for index, layer in enumerate(self.model.layers):
            layer.self_attn = DeciLMAttention(config, index)
        self.post_init()  # type: ignore[no-untyped-call]  # once more, for the new weights
