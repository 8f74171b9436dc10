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
from gqasearch.models.families_described import DESCRIBED
from gqasearch.models.families_towers import TOWERS
from gqasearch.separate_grouping import AnyGrouping, SeparateGrouping, SeparateLayer

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
        *(architecture for family in DESCRIBED for architecture in family.architectures),
    ),
    "modeling_ragged",
)
RAGGED_MODULES |= dict.fromkeys(("OPTForCausalLM", "GPT2LMHeadModel"), "modeling_ragged_learned")
RAGGED_MODULES |= dict.fromkeys(
    ("GPTNeoForCausalLM", "BioGptForCausalLM", "XGLMForCausalLM", "GPTBigCodeForCausalLM", "PersimmonForCausalLM"),
    "modeling_ragged_copied",
)
RAGGED_MODULES |= dict.fromkeys(ENCODER_NAMES, ENCODER_MODULE)


# Models whose text tower is grouped.
TOWER_ARCHITECTURES = tuple(architecture for family in TOWERS for architecture in family.architectures)
RAGGED_MODULES |= dict.fromkeys(TOWER_ARCHITECTURES, "modeling_ragged")
# The modelling file needs transformers 5, which warns of RoPE in the words of 4 where it does not know the model.
RENAMED = ("rope_scaling", "rope_theta")

# Modelling files that know key heads and value heads that were grouped apart.
# Whose attention, in transformers, takes as many value heads as key heads.
AS_MANY_VALUES = ("StableLmForCausalLM", "MllamaForConditionalGeneration")
SEPARATE_MODULES = ("modeling_ragged", "modeling_ragged_learned")


def stock_obstacle(config: Config | None) -> str | None:
    """Why transformers' own code has no form with fewer KV heads for a source of this configuration; or None."""
    architecture = "" if config is None else config["architectures"][0]
    family = supported_architectures().get(architecture)
    if family is None or family.has_grouped_form:
        return None
    return f"{architecture} {family.no_grouped_form}"


def ragged_layout(grouping: AnyGrouping, geometry: HeadGeometry, config: Config | None, why_not: str = "") -> Layout:
    """Query heads in the order of their groups, larger groups first; none is added.

    ``why_not``: said of the layout that goes before this. Raises ``UserError`` for an architecture that no modelling
    file has a class for.
    """
    if isinstance(grouping, SeparateGrouping):
        return _separate_layout(grouping, geometry, config)
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


def _separate_layout(grouping: SeparateGrouping, geometry: HeadGeometry, config: Config | None) -> Layout:
    """The same of keys and values that were grouped apart: query heads that read the same two stand together."""
    architecture = "" if config is None else config["architectures"][0]
    known = [
        name for name, module in RAGGED_MODULES.items() if module in SEPARATE_MODULES and name not in AS_MANY_VALUES
    ]
    if config is not None and architecture not in known:
        raise UserError(
            f"{architecture} has no layout for keys and values that are grouped apart (--separate-kv); "
            f"{', '.join(known)} have one"
        )
    queries = geometry.queries_per_kv
    placed = tuple(
        tuple(head * queries + query for _, heads in read_together(layer) for head in heads for query in range(queries))
        for layer in grouping
    )
    keys, values = (
        tuple(side.num_groups for side in sides)
        for sides in ([layer.keys for layer in grouping], [layer.values for layer in grouping])
    )
    layout = Layout("ragged", placed, keys, "", value_heads_per_layer=values)
    reason = (
        f"Keys and values were grouped apart ({layout.kv_heads_words} heads), which no stock architecture can say: "
        "query heads are reordered, none is added, and the checkpoint brings its own modelling file."
    )
    return replace(layout, reason=reason)


def read_together(layer: SeparateLayer) -> list[tuple[tuple[int, int], tuple[int, ...]]]:
    """(Key group, value group) -> the heads whose queries read these two; most heads first."""
    found: dict[tuple[int, int], list[int]] = {}
    for head, read in enumerate(zip(layer.keys.labels, layer.values.labels, strict=True)):
        found.setdefault(read, []).append(head)
    return sorted(((read, tuple(heads)) for read, heads in found.items()), key=lambda item: -len(item[1]))


def _by_size(grouping: Grouping) -> tuple[tuple[int, ...], ...]:
    """Groups of every layer, larger ones first, (L, G)."""
    return tuple(tuple(sorted(range(layer.num_groups), key=lambda group: -layer.sizes[group])) for layer in grouping)


def ragged_config(grouped: Config, layout: Layout, grouping: AnyGrouping, geometry: HeadGeometry) -> Config:
    """``config.json`` of a ragged model, from that of a stock model with as many heads."""
    architecture = grouped["architectures"][0]
    module, name = RAGGED_MODULES[architecture], ENCODER_NAMES.get(architecture, architecture)
    name = name.removesuffix("ForCausalLM").removesuffix("LMHeadModel")
    if architecture in TOWER_ARCHITECTURES:
        return _ragged_tower(grouped, layout, _groups_of(grouping, layout, geometry.queries_per_kv))
    own: dict[str, Any] = {
        "architectures": [f"Ragged{name}ForCausalLM"],
        "model_type": f"ragged_{name.lower()}",
        "auto_map": {
            "AutoConfig": f"{module}.Ragged{name}Config",
            "AutoModelForCausalLM": f"{module}.Ragged{name}ForCausalLM",
        },
        "num_key_value_heads_per_layer": list(layout.kv_heads_per_layer),
        **_groups_of(grouping, layout, geometry.queries_per_kv),
    }
    if architecture in ENCODER_NAMES:
        own |= encoder_classes(architecture)
    kept = {name: value for name, value in grouped.items() if name not in RENAMED}
    return {**kept, **own}


def _ragged_tower(grouped: Config, layout: Layout, groups: Config) -> Config:
    """The same of a model that reads images, too: the groups are fields of the whole model's, heads of its tower's."""
    name = grouped["architectures"][0]
    config = f"Ragged{name.removesuffix('ForConditionalGeneration')}TowerConfig"
    text = {field: value for field, value in grouped["text_config"].items() if field not in RENAMED}
    by_layer = {"num_key_value_heads_per_layer": list(layout.kv_heads_per_layer), **groups}
    return {
        **grouped,
        "text_config": text,
        "architectures": [f"Ragged{name}"],
        "model_type": config.removesuffix("Config").lower().replace("ragged", "ragged_"),
        "auto_map": {
            "AutoConfig": f"modeling_ragged.{config}",
            "AutoModelForImageTextToText": f"modeling_ragged.Ragged{name}",
        },
        **_with_cross_attention(by_layer, text),
    }


def _with_cross_attention(by_layer: Config, text: Config) -> Config:
    """Fields of every layer, with those of layers that attend to an image and have the heads of the source."""
    heads = int(text["num_key_value_heads"])
    own = {
        "num_key_value_heads_per_layer": heads,
        "kv_group_sizes": [text["num_attention_heads"] // heads] * heads,
    }
    for layer in sorted(text.get("cross_attention_layers", ())):
        for name, values in by_layer.items():
            values.insert(layer, own[name])
    return by_layer


def _groups_of(grouping: AnyGrouping, layout: Layout, queries_per_kv: int) -> Config:
    """The groups of query heads, in their order, as the modelling file takes them."""
    if isinstance(grouping, SeparateGrouping):
        together = [read_together(layer) for layer in grouping]
        return {
            "kv_group_sizes": [[len(heads) * queries_per_kv for _, heads in groups] for groups in together],
            "kv_group_heads": [[list(read) for read, _ in groups] for groups in together],
        }
    ordered = zip(grouping, layout.groups, strict=True)
    return {"kv_group_sizes": [[layer.sizes[group] * queries_per_kv for group in order] for layer, order in ordered]}
