"""The ragged layout: real heads only, any number of groups of any size in every layer, with code of its own.

Groups of one size stand side by side, the largest first: its code attends all of them in one call.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from gqasearch.checkpoints.layout import Layout, place
from gqasearch.checkpoints.ragged_encoders import ENCODER_MODULE, ENCODER_NAMES, encoder_classes
from gqasearch.errors import UserError
from gqasearch.grouping import Grouping
from gqasearch.models import Config, HeadGeometry, supported_architectures

# Architecture of the source -> the modelling file that has its classes, named as the source's with "Ragged" before.
RAGGED_MODULES = dict.fromkeys(
    (
        "LlamaForCausalLM",
        "MistralForCausalLM",
        "Qwen2ForCausalLM",
        "Qwen3ForCausalLM",
        "GemmaForCausalLM",
        "Gemma2ForCausalLM",
        "Gemma3ForCausalLM",
        "Phi3ForCausalLM",
        "Starcoder2ForCausalLM",
        "OlmoForCausalLM",
        "StableLmForCausalLM",
        "GraniteForCausalLM",
        "SmolLM3ForCausalLM",
        "CohereForCausalLM",
        "PhiForCausalLM",
    ),
    "modeling_ragged",
)
RAGGED_MODULES |= dict.fromkeys(("OPTForCausalLM", "GPT2LMHeadModel"), "modeling_ragged_learned")
RAGGED_MODULES |= dict.fromkeys(ENCODER_NAMES, ENCODER_MODULE)


def stock_obstacle(config: Config | None) -> str | None:
    """Why transformers' own code has no form with fewer KV heads for a source of this configuration; or None."""
    architecture = "" if config is None else config["architectures"][0]
    family = supported_architectures().get(architecture)
    if family is None or family.has_grouped_form:
        return None
    return f"{architecture} has as many key and value heads as query heads and no grouped form"


def ragged_layout(grouping: Grouping, geometry: HeadGeometry, config: Config | None, why_not: str = "") -> Layout:
    """Query heads in the order of their groups, larger groups first; none is added.

    ``why_not``: said of the layout that goes before this. Raises ``UserError`` for an architecture that no modelling
    file has a class for.
    """
    counts = grouping.group_counts
    architecture = None if config is None else config["architectures"][0]
    if architecture is not None and architecture not in RAGGED_MODULES:
        raise UserError(
            f"{architecture} has no ragged layout, which group counts that differ between layers need "
            f"(by layer: {', '.join(map(str, counts))}); {', '.join(RAGGED_MODULES)} have one. "
            "Search with --kv-ratio or --kv-heads, which give every layer the same number"
        )
    groups = _by_size(grouping)
    placed = tuple(
        place(layer, 0, geometry.queries_per_kv, order) for layer, order in zip(grouping, groups, strict=True)
    )
    layout = Layout("ragged", placed, counts, "", groups)
    what = f"Every layer has groups of its own sizes{why_not}"
    if (obstacle := stock_obstacle(config)) is not None:
        what = obstacle
    elif min(counts) < max(counts):
        what = f"Layers have {layout.kv_heads_words} KV heads, which no stock architecture can say{why_not}"
    reason = f"{what}: query heads are reordered, none is added, and the checkpoint brings its own modelling file."
    return replace(layout, reason=reason)


def _by_size(grouping: Grouping) -> tuple[tuple[int, ...], ...]:
    """Groups of every layer, larger ones first, (L, G)."""
    return tuple(tuple(sorted(range(layer.num_groups), key=lambda group: -layer.sizes[group])) for layer in grouping)


def ragged_config(grouped: Config, layout: Layout, grouping: Grouping, geometry: HeadGeometry) -> Config:
    """``config.json`` of a ragged model, from that of a stock model with as many heads."""
    architecture = grouped["architectures"][0]
    module, name = RAGGED_MODULES[architecture], ENCODER_NAMES.get(architecture, architecture)
    name = name.removesuffix("ForCausalLM").removesuffix("LMHeadModel")
    sizes = [
        [layer.sizes[group] * geometry.queries_per_kv for group in order]
        for layer, order in zip(grouping, layout.groups, strict=True)
    ]
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
    if architecture in ENCODER_NAMES:
        own |= encoder_classes(name)
    # The modelling file needs transformers 5, which warns of RoPE in the words of 4 where it does not know the model.
    kept = {name: value for name, value in grouped.items() if name not in ("rope_scaling", "rope_theta")}
    return {**kept, **own}
