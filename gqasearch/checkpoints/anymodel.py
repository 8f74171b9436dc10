"""The AnyModel layout, for a vLLM to come: a stock decoder whose layers have their own numbers of KV heads.

Read, not run: written as the text of vLLM's pull request 36512 has it, which no vLLM up to 0.33.0 contains. It builds
``base_architecture`` from the fields for all layers, then makes every layer anew with what ``block_configs`` say of it.
Its other form, transformers' ``per_layer_config``, is not written: transformers 5.23 builds no Llama of it.

transformers loads it with the ragged layout's modelling file, to which its groups are all of one size in a layer.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from gqasearch.checkpoints.deci import deci_layout
from gqasearch.checkpoints.layout import Layout
from gqasearch.checkpoints.ragged import RAGGED_MODULES
from gqasearch.errors import UserError
from gqasearch.grouping import Grouping
from gqasearch.models import Config, HeadGeometry

ANYMODEL = "AnyModel"
QWEN2 = "Qwen2ForCausalLM"
BASES = ("LlamaForCausalLM", "MistralForCausalLM", QWEN2, "Qwen3ForCausalLM")


def anymodel_obstacle(config: Config) -> str | None:
    """Why a source of this configuration cannot be an AnyModel; or None."""
    architecture = config["architectures"][0]
    return None if architecture in BASES else f"{architecture} is none of {', '.join(BASES)}"


def anymodel_layout(grouping: Grouping, geometry: HeadGeometry, config: Config | None) -> Layout:
    """Groups in order, as ``deci`` has them; raises ``UserError`` for a Qwen2 that it would pad."""
    layout, own = deci_layout(grouping, geometry, "anymodel"), geometry.num_attention_heads
    added = layout.query_heads - own
    if added and config is not None and config["architectures"][0] == QWEN2:
        raise UserError(
            f"layout anymodel needs {layout.query_heads} query heads in place of {own}, and vLLM takes hidden size / "
            "heads for the size of a Qwen2's head. Use --layout ragged"
        )
    words = f"{added} query heads added to every layer, zero" if added else "no query head added"
    reason = f"Layers have {layout.kv_heads_words} KV heads, which vLLM's AnyModel is to say; {words}. Read, not run."
    return replace(layout, name="anymodel", reason=reason)


def anymodel_config(grouped: Config, layout: Layout) -> Config:
    """``config.json`` of an AnyModel, from that of a stock model with as many heads in the layer that has most."""
    base = grouped["architectures"][0]
    module, name = RAGGED_MODULES[base], base.removesuffix("ForCausalLM")
    counts, heads = layout.kv_heads_per_layer, layout.query_heads
    own: dict[str, Any] = {
        "architectures": [ANYMODEL],
        "base_architecture": base,
        "block_configs": [
            {"attention": {"no_op": False, "num_key_value_heads": count}, "ffn": {"no_op": False}} for count in counts
        ],
        "auto_map": {
            "AutoConfig": f"{module}.Ragged{name}Config",
            "AutoModelForCausalLM": f"{module}.Ragged{name}ForCausalLM",
        },
        "num_key_value_heads_per_layer": list(counts),
        "kv_group_sizes": [[heads // count] * count for count in counts],
    }
    return {**grouped, **own}
