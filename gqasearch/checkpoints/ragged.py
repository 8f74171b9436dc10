"""The ragged layout: real heads only, any number of groups of any size in every layer, with code of its own."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from gqasearch.checkpoints.layout import Layout, place
from gqasearch.checkpoints.ragged_encoders import ENCODER_NAMES, encoder_classes
from gqasearch.errors import UserError
from gqasearch.grouping import Grouping
from gqasearch.models import Config, HeadGeometry, supported_architectures

MODULE = "modeling_ragged"
LEARNED_MODULE = "modeling_ragged_learned"  # of those with learned positions
# Architecture of the source -> what its classes are called in the modelling file, after "Ragged" and before
# "Config" and "ForCausalLM".
RAGGED_NAMES = {
    "LlamaForCausalLM": "Llama",
    "MistralForCausalLM": "Mistral",
    "Qwen2ForCausalLM": "Qwen2",
    "Qwen3ForCausalLM": "Qwen3",
    "OPTForCausalLM": "OPT",
    "GPT2LMHeadModel": "GPT2",
    **ENCODER_NAMES,
}
LEARNED = ("OPT", "GPT2")


def stock_obstacle(config: Config | None) -> str | None:
    """Why transformers' own code has no form with fewer KV heads for a source of this configuration; or None."""
    architecture = "" if config is None else config["architectures"][0]
    family = supported_architectures().get(architecture)
    if family is None or family.has_grouped_form:
        return None
    return f"{architecture} has as many key and value heads as query heads and no grouped form"


def ragged_layout(grouping: Grouping, geometry: HeadGeometry, config: Config | None, why_not: str = "") -> Layout:
    """Query heads in the order of their groups, none added. ``why_not``: said of the layout that goes before this.

    Raises ``UserError`` for an architecture that the modelling file has no class for.
    """
    counts = grouping.group_counts
    architecture = None if config is None else config["architectures"][0]
    if architecture is not None and architecture not in RAGGED_NAMES:
        raise UserError(
            f"{architecture} has no ragged layout, which group counts that differ between layers need "
            f"(by layer: {', '.join(map(str, counts))}); {', '.join(RAGGED_NAMES)} have one. "
            "Search with --kv-ratio or --kv-heads, which give every layer the same number"
        )
    layout = Layout("ragged", tuple(place(layer, 0, geometry.queries_per_kv) for layer in grouping), counts, "")
    what = "Every layer has groups of its own sizes"
    if (obstacle := stock_obstacle(config)) is not None:
        what = obstacle
    elif min(counts) < max(counts):
        what = f"Layers have {layout.kv_heads_words} KV heads, which no stock architecture can say{why_not}"
    reason = f"{what}: query heads are reordered, none is added, and the checkpoint brings its own modelling file."
    return replace(layout, reason=reason)


def ragged_config(grouped: Config, grouping: Grouping, geometry: HeadGeometry) -> Config:
    """``config.json`` of a ragged model, from that of a stock model with as many heads."""
    name = RAGGED_NAMES[grouped["architectures"][0]]
    module = LEARNED_MODULE if name in LEARNED else MODULE
    sizes = [[size * geometry.queries_per_kv for size in layer.sizes] for layer in grouping]
    own: dict[str, Any] = {
        "architectures": [f"Ragged{name}ForCausalLM"],
        "model_type": f"ragged_{name.lower()}",
        "auto_map": {
            "AutoConfig": f"{module}.Ragged{name}Config",
            "AutoModelForCausalLM": f"{module}.Ragged{name}ForCausalLM",
        },
        "num_key_value_heads_per_layer": list(grouping.group_counts),
        "kv_group_sizes": sizes,
    }
    if name in ENCODER_NAMES.values():
        own |= encoder_classes(name)
    # The modelling file needs transformers 5, which warns of RoPE in the words of 4 where it does not know the model.
    kept = {name: value for name, value in grouped.items() if name not in ("rope_scaling", "rope_theta")}
    return {**kept, **own}
