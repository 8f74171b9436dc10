"""The MiMo layout: some layers with G KV heads, the others with twice as many, and no remote code.

A MiMo-V2-Flash whose layers all have dense MLPs is a Llama, but for its layers with a sliding window: these have twice
the KV heads, and a sink for every query head. Here the window is as long as the longest text, and the sinks are so far
below any score that what they take of attention is 0 in every float dtype.

Written as transformers 5.23 (models/mimo_v2_flash), vLLM 0.32 (vllm/model_executor/models/mimo_v2.py) and MLX-LM 0.32
(mlx_lm/models/mimo_v2_flash.py) read it; tests/clients runs all three. They read other fields for the same thing.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace

import torch
from torch import Tensor

from gqasearch.checkpoints.carried import CarriedTensors, layer_of, whole_layer, whole_names
from gqasearch.checkpoints.conversion import Conversion
from gqasearch.checkpoints.deci import deci_layout, deci_obstacle
from gqasearch.checkpoints.layout import Layout
from gqasearch.errors import UserError
from gqasearch.grouping import Grouping
from gqasearch.models import CheckpointTensors, Config, Family, HeadGeometry, LayerWeights

MIMO_ARCHITECTURE = "MiMoV2FlashForCausalLM"
# exp(SINK - score) is 0 in float32, for any score above -29,800; float16 holds it.
SINK = -30_000.0


def plain_rope_obstacle(config: Config, what: str) -> str | None:
    """Why a source cannot be written as a carrier, a Llama whose RoPE is not scaled; or None."""
    if (obstacle := deci_obstacle(config, what)) is not None:
        return obstacle
    rope = config.get("rope_scaling") or config.get("rope_parameters") or {}
    kind = rope.get("rope_type", rope.get("type", "default"))
    return None if kind == "default" else f"this model's RoPE is scaled ({kind}), {what}'s is not"


def mimo_obstacle(config: Config) -> str | None:
    """Why a source of this configuration cannot be written as a MiMo; or None."""
    return plain_rope_obstacle(config, "MiMo")


def mimo_layout(grouping: Grouping, geometry: HeadGeometry) -> Layout:
    """Groups in order, as ``deci`` has them.

    Raises ``UserError`` unless the layers have two numbers of groups, one twice the other.
    """
    counts = sorted(set(grouping.group_counts))
    if len(counts) != 2 or counts[1] != 2 * counts[0]:
        has = ", ".join(map(str, grouping.group_counts))
        hint = (
            "stock says that; search with --layout mimo for layers that differ"
            if len(counts) == 1
            else "use --layout deci or ragged"
        )
        raise UserError(
            "layout mimo takes two numbers of KV heads, G in some layers and 2 G in the others; this grouping has "
            f"{has} by layer: {hint}"
        )
    layout, own = deci_layout(grouping, geometry, "mimo"), geometry.num_attention_heads
    added = f", {layout.query_heads} query heads in place of {own}, the added ones zero"
    reason = (
        f"Layers have {counts[0]} or {counts[1]} KV heads, which a MiMo-V2-Flash can say without remote code"
        f"{added if layout.query_heads > own else ''}; layers with {counts[1]} are its layers with a sliding window, "
        "as long here as the longest text."
    )
    return replace(layout, name="mimo", reason=reason)


def mimo_config(grouped: Config, layout: Layout, geometry: HeadGeometry) -> Config:
    """``config.json`` of a MiMo-V2-Flash, from that of a stock model with as many heads."""
    few, many = min(layout.kv_heads_per_layer), max(layout.kv_heads_per_layer)
    sliding = [int(count == many) for count in layout.kv_heads_per_layer]
    layers, heads, size = len(sliding), layout.query_heads, geometry.head_dim
    theta, epsilon = grouped["rope_theta"], grouped.get("rms_norm_eps", 1e-6)
    longest = grouped.get("max_position_embeddings", 2048)  # Llama's default
    turned = {"rope_type": "default", "rope_theta": theta, "partial_rotary_factor": 1.0}
    own = {
        "architectures": [MIMO_ARCHITECTURE],
        "model_type": "mimo_v2_flash",
        "num_attention_heads": heads,
        "num_key_value_heads": few,
        "head_dim": size,
        "v_head_dim": size,
        "attention_bias": False,
        "attention_value_scale": 1.0,
        "max_position_embeddings": longest,
        "rms_norm_eps": epsilon,
        "tie_word_embeddings": grouped.get("tie_word_embeddings", False),
    }
    # transformers
    own |= {
        "layer_types": [("full_attention", "sliding_attention")[slides] for slides in sliding],
        "mlp_layer_types": ["dense"] * layers,
        "rope_parameters": {"full_attention": turned, "sliding_attention": turned},
    }
    # vLLM, SGLang, MLX-LM, llama.cpp's converter
    own |= {
        "hybrid_layer_pattern": sliding,
        "moe_layer_freq": [0] * layers,
        "swa_num_attention_heads": heads,
        "swa_num_key_value_heads": many,
        "swa_head_dim": size,
        "swa_v_head_dim": size,
        "sliding_window": longest + 1,
        "sliding_window_size": longest,
        "add_swa_attention_sink_bias": True,
        "add_full_attention_sink_bias": False,
        "layernorm_epsilon": epsilon,
        "rope_theta": theta,
        "swa_rope_theta": theta,
        "partial_rotary_factor": 1.0,
    }
    # Of experts, which no layer has. MLX-LM loads nothing without these fields, llama.cpp no more groups than experts.
    own |= {
        "moe_intermediate_size": grouped["intermediate_size"],
        "n_routed_experts": 2,
        "n_shared_experts": None,
        "num_experts_per_tok": 1,
        "n_group": 1,
        "topk_group": 1,
        "topk_method": "noaux_tc",
        "scoring_func": "sigmoid",
        "norm_topk_prob": True,
        "routed_scaling_factor": 1.0,
    }
    dropped = {"rope_scaling", "mlp_bias", "pretraining_tp"}
    return {name: value for name, value in grouped.items() if name not in dropped} | own


class AsMimo:
    """As ``Conversion``, of a Llama that becomes a MiMo-V2-Flash. ``tensors``: what the shards are of."""

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
        names = whole_names(own, untied=True)  # MLX-LM ties nothing
        self._names = dict(names)
        sinks = {}
        for layer, count in enumerate(layout.kv_heads_per_layer):
            if count == layout.kv_heads:
                sinks[_sinks(layer)] = names[f"model.layers.{layer}.self_attn.q_proj.weight"]
        self.tensors = CarriedTensors(own.directory, own, names | sinks)
        self._dtypes = {name: self._attention.dtype_of(origin) for name, origin in sinks.items()}
        shapes = {name: self._attention.shapes[own] for name, own in names.items() if own in self._attention.shapes}
        self.shapes = shapes | dict.fromkeys(sinks, (layout.query_heads,))

    def convert(self, name: str) -> Mapping[str, Tensor]:
        """The layer that this tensor is of: name -> tensor, in the source's dtype."""
        layer = layer_of(name)
        made = whole_layer(self._attention, self._names, layer)
        if (sinks := _sinks(layer)) in self.shapes:
            made[sinks] = torch.full(self.shapes[sinks], SINK, dtype=self._dtypes[sinks])
        return made


def _sinks(layer: int) -> str:
    """As vLLM, MLX-LM and published checkpoints name them; transformers renames them when it loads."""
    return f"model.layers.{layer}.self_attn.attention_sink_bias"
