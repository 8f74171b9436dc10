"""The OpenELM layout, for MLX-LM: any number of KV heads in every layer, and no more query slots than each needs.

OpenELM without norms on queries and keys is a Llama whose layers have their own numbers of query and KV heads. MLX-LM
(mlx_lm/models/openelm.py) has it as its own; transformers loads it with the modelling file beside the weights.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from gqasearch.checkpoints.carried import EMBEDDINGS, OUTPUT, CarriedTensors, layer_of, whole_layer, whole_names
from gqasearch.checkpoints.conversion import Conversion, convertible
from gqasearch.checkpoints.layout import Layout, place
from gqasearch.checkpoints.mimo import plain_rope_obstacle
from gqasearch.grouping import Grouping
from gqasearch.models import CheckpointTensors, Config, Family, HeadGeometry, LayerWeights

MODULE = "modeling_openelm"
# A Llama's name -> OpenELM's; those in a layer without "model.layers.N.".
OUTSIDE = {EMBEDDINGS: "transformer.token_embeddings.weight", "model.norm.weight": "transformer.norm.weight"}
IN_LAYER = {
    "input_layernorm.weight": "attn_norm.weight",
    "post_attention_layernorm.weight": "ffn_norm.weight",
    "mlp.down_proj.weight": "ffn.proj_2.weight",
    "self_attn.o_proj.weight": "attn.out_proj.weight",
    # What several tensors become has the place of the first.
    "self_attn.q_proj.weight": "attn.qkv_proj.weight",
    "mlp.gate_proj.weight": "ffn.proj_1.weight",
}
COMPUTED = ("attn.qkv_proj.weight", "attn.out_proj.weight", "ffn.proj_1.weight")


def openelm_obstacle(config: Config) -> str | None:
    """Why a source of this configuration cannot be written as an OpenELM; or None."""
    return plain_rope_obstacle(config, "OpenELM")


def openelm_layout(grouping: Grouping, geometry: HeadGeometry) -> Layout:
    """Groups in order; every group of a layer gets as many slots as the layer's largest."""
    per_kv = geometry.queries_per_kv
    placed = tuple(place(layer, max(layer.sizes) * per_kv, per_kv) for layer in grouping)
    added = sum(map(len, placed)) - geometry.num_attention_heads * len(placed)
    words = f"{added} query heads added in all layers together, zero" if added else "no query head added"
    reason = f"Every layer has its own numbers of KV heads and query heads, which OpenELM has in MLX-LM; {words}."
    return Layout("openelm", placed, grouping.group_counts, reason)


def openelm_config(grouped: Config, layout: Layout, geometry: HeadGeometry) -> Config:
    """``config.json`` of an OpenELM, from that of a stock model with as many heads in the layer that has most."""
    layers, width = len(layout.slots), geometry.hidden_size
    own: dict[str, Any] = {
        "architectures": ["OpenELMForCausalLM"],
        "model_type": "openelm",
        "auto_map": {
            "AutoConfig": f"{MODULE}.OpenELMConfig",
            "AutoModelForCausalLM": f"{MODULE}.OpenELMForCausalLM",
        },
        "sliding_window": None,
        "num_query_heads": [len(slots) for slots in layout.slots],
        "num_kv_heads": list(layout.kv_heads_per_layer),
        # MLX-LM's words for what Llama has under others.
        "head_dim": geometry.head_dim,
        "num_transformer_layers": layers,
        "model_dim": width,
        "ffn_dim_divisor": 1,
        "ffn_multipliers": [grouped["intermediate_size"] / width] * layers,
        "ffn_with_glu": True,
        "normalize_qk_projections": False,
        "share_input_output_layers": bool(grouped.get("tie_word_embeddings", False)),
        "rms_norm_eps": grouped.get("rms_norm_eps", 1e-6),
        "rope_freq_constant": grouped["rope_theta"],
    }
    dropped = {"attention_bias", "mlp_bias", "pretraining_tp", "rope_scaling"}
    return {name: value for name, value in grouped.items() if name not in dropped} | own


class AsOpenElm:
    """As ``Conversion``, of a Llama that becomes an OpenELM. ``tensors``: what the shards are of."""

    def __init__(
        self,
        own: CheckpointTensors,
        family: Family,
        config: Config,
        layout: Layout,
        merged_layer: Callable[[int], LayerWeights],
    ) -> None:
        self._attention = Conversion(own, family, config, layout, merged_layer)
        self.stored_dtype = self._attention.stored_dtype
        self._own, self._names = own, whole_names(own, untied=False)
        if config.get("tie_word_embeddings"):
            self._names.pop(OUTPUT, None)  # MLX-LM refuses one that it does not use
        named = {_openelm_name(name): stored for name, stored in self._names.items()}
        self.tensors = CarriedTensors(own.directory, own, {name: own_ for name, own_ in named.items() if name})
        self.shapes = {name: self._planned_shape(name) for name in self.tensors.shard_of if name.endswith(COMPUTED)}

    def convert(self, name: str) -> Mapping[str, Tensor]:
        """This tensor, in the source's dtype, with those of its layer that are made together with it."""
        layer = _number(name)
        if name.endswith("ffn.proj_1.weight"):
            return {name: self._gate_and_input(layer)}
        made, path = whole_layer(self._attention, self._names, layer), f"model.layers.{layer}.self_attn"
        fused = torch.cat([made[f"{path}.{role}_proj.weight"] for role in "qkv"])
        to = f"transformer.layers.{layer}.attn"
        return {f"{to}.qkv_proj.weight": fused, f"{to}.out_proj.weight": made[f"{path}.o_proj.weight"]}

    def _gate_and_input(self, layer: int) -> Tensor:
        """(2 intermediate, D)."""
        names = [self._names[f"model.layers.{layer}.mlp.{role}_proj.weight"] for role in ("gate", "up")]
        dtype = convertible(names[0], self._own.stored(names[0]).dtype)
        return torch.cat([self._own.read(name).to(dtype) for name in names])

    def _planned_shape(self, name: str) -> tuple[int, ...]:
        path = f"model.layers.{_number(name)}"
        if name.endswith("ffn.proj_1.weight"):
            rows, width = self._own.stored(self._names[f"{path}.mlp.gate_proj.weight"]).shape
            return (2 * rows, width)
        shape_of = {
            role: self._attention.shapes[self._names[f"{path}.self_attn.{role}_proj.weight"]] for role in "qkvo"
        }
        if name.endswith("out_proj.weight"):
            return shape_of["o"]
        return (sum(shape_of[role][0] for role in "qkv"), shape_of["q"][1])


def _openelm_name(name: str) -> str | None:
    """OpenELM's name of a Llama's tensor; None for one that becomes part of another."""
    if not name.startswith("model.layers."):
        return OUTSIDE.get(name, name)
    layer = layer_of(name)
    own = IN_LAYER.get(name.removeprefix(f"model.layers.{layer}."))
    return None if own is None else f"transformer.layers.{layer}.{own}"


def _number(name: str) -> int:
    return layer_of(name.replace("transformer.", "model.", 1))
