"""The DeciLM layout: layers differ in their number of KV heads, all are padded to one number of query heads.

Read by transformers with the modelling file beside it. Written as the code of vLLM (vllm-project/vllm,
vllm/model_executor/models/nemotron_nas.py) and of llama.cpp's converter (ggml-org/llama.cpp, conversion/deci.py,
which takes ``num_key_value_heads_per_layer`` and ``head_dim`` from config.json) reads it; tests/clients runs both.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from gqasearch.checkpoints.layout import Layout, added_weights, place
from gqasearch.errors import UserError
from gqasearch.grouping import Grouping
from gqasearch.models import Config, HeadGeometry
from gqasearch.targets import LayoutName

MODULE = "modeling_deci"
DECI_ARCHITECTURES = ("LlamaForCausalLM", "MistralForCausalLM")
MOST_PADDING = 4  # times the source's query heads, beyond which this layout is refused
SPARING_PADDING = 1.5  # beyond which it is not chosen unasked


def deci_obstacle(config: Config, what: str = "DeciLM") -> str | None:
    """Why a source of this configuration cannot be written as ``what``, a Llama without biases; or None."""
    architecture = config["architectures"][0]
    if architecture not in DECI_ARCHITECTURES:
        return f"{architecture} is no Llama or Mistral, whose network {what} has"
    if config.get("attention_bias") or config.get("mlp_bias"):
        return f"this model has biases, {what} has none"
    if architecture == "MistralForCausalLM" and config.get("sliding_window", 4096) is not None:  # Mistral's default
        return f"this model has a sliding window, {what} has none"
    activation = config.get("hidden_act", "silu")
    if activation != "silu":  # llama.cpp does not read it
        return f"this model's MLP uses {activation}, {what}'s silu"
    return None


def deci_query_heads(grouping: Grouping, geometry: HeadGeometry) -> int:
    """The fewest query heads that the group counts of all layers divide, with room for every layer's largest group."""
    return grouping.common_query_heads(geometry.queries_per_kv)


def deci_layout(grouping: Grouping, geometry: HeadGeometry, name: LayoutName = "deci") -> Layout:
    """Groups in order, each with the same number of slots as the others of its layer.

    ``name``: of the layout that is asked for.

    Raises ``UserError`` where that takes more than ``MOST_PADDING`` times the source's query heads.
    """
    counts, own, heads = grouping.group_counts, geometry.num_attention_heads, deci_query_heads(grouping, geometry)
    added = f"{added_weights(heads, geometry):,} more parameters"
    if heads > MOST_PADDING * own:
        raise UserError(
            f"layout {name} needs one number of query heads that all group counts divide "
            f"({', '.join(map(str, sorted(set(counts))))}), with room for the largest groups: {heads} in place of "
            f"{own}, {added}. At most {MOST_PADDING} times as many, {MOST_PADDING * own}, are written; "
            "use --layout ragged, which pads nothing"
        )
    placed = tuple(place(layer, heads // layer.num_groups, geometry.queries_per_kv) for layer in grouping)
    layout = Layout("deci", placed, counts, "")
    alone = ", which no stock architecture can say; DeciLM can" if len(set(counts)) > 1 else ", here as a DeciLM"
    added_heads = (
        f"{heads} query heads in place of {own}, the added ones zero ({added})" if heads > own else "none added"
    )
    return replace(layout, reason=f"Layers have {layout.kv_heads_words} KV heads{alone}, with {added_heads}.")


def deci_config(grouped: Config, layout: Layout) -> Config:
    """``config.json`` of a DeciLM, from that of a stock model with as many heads."""
    own: dict[str, Any] = {
        "architectures": ["DeciLMForCausalLM"],
        "model_type": "deci",
        "auto_map": {
            "AutoConfig": f"{MODULE}.DeciLMConfig",
            "AutoModelForCausalLM": f"{MODULE}.DeciLMForCausalLM",
        },
        "num_key_value_heads_per_layer": list(layout.kv_heads_per_layer),
        "sliding_window": None,
    }
    # What a Llama says and a Mistral does not know; and a RoPE scaling that is none, of which transformers 5 warns.
    dropped = {"attention_bias", "mlp_bias", "pretraining_tp"}
    dropped |= {"rope_scaling"} if grouped.get("rope_scaling") is None else set()
    return {name: value for name, value in grouped.items() if name not in dropped} | own
