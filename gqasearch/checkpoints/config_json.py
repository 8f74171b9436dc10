"""``config.json`` of a converted checkpoint, read alike by transformers 4 and 5."""

from __future__ import annotations

from typing import Any

import torch
import transformers

from gqasearch.checkpoints.layout import Layout
from gqasearch.models import Config, Family
from gqasearch.models.family import text_of

# True of the source only: its path, its remote code, how many slices its projections were computed in.
SOURCE_ONLY = ("_name_or_path", "auto_map", "pretraining_tp")


def stock_config(family: Family, config: Config, layout: Layout, stored_dtype: torch.dtype) -> Config:
    """The source's ``config.json`` with the heads of ``layout``.

    ``stored_dtype``: of the source's attention weights, named when the source names none.
    """
    head_dim = family.geometry(config).head_dim
    grouped = family.grouped_config(config, layout.query_heads, layout.kv_heads, head_dim)
    text = {**_without_source(grouped), **rope_fields(family, text_of(config))}
    dtype = config.get("dtype") or config.get("torch_dtype") or str(stored_dtype).removeprefix("torch.")
    return {
        **({**_without_source(config), "text_config": text} if family.has_images else text),
        "dtype": dtype,
        "torch_dtype": dtype,
        # transformers 5 takes a Mistral written by an older version, or by none named, for one with a
        # broken tokenizer and says to patch it; a Llama written as Mistral must not be patched.
        "transformers_version": transformers.__version__,
    }


def _without_source(config: Config) -> Config:
    return {name: value for name, value in config.items() if name not in SOURCE_ONLY}


def rope_fields(family: Family, config: Config) -> dict[str, Any]:
    """RoPE for transformers 5 (``rope_parameters``) and 4 (``rope_theta``, ``rope_scaling``).

    Precedence as in transformers 5: ``rope_scaling`` over ``rope_parameters``, a theta inside over one beside.
    """
    if not family.geometry(config).rotary_dim:
        return {}
    if family.default_local_rope_theta is not None:
        return _rope_fields_by_layer_type(family, config)
    given = dict(config.get("rope_scaling") or config.get("rope_parameters") or {})
    if not given and family.scales_rope_unasked:
        return {}
    theta = given.pop("rope_theta", None) or config.get("rope_theta") or family.default_rope_theta
    kind = _pop_kind(given)
    fraction = given.pop("partial_rotary_factor", None) or config.get("partial_rotary_factor")
    partial = {} if fraction is None else {"partial_rotary_factor": fraction}
    return {
        "rope_parameters": {"rope_type": kind, "rope_theta": theta, **given, **partial},
        "rope_theta": theta,
        "rope_scaling": _rope_scaling(family, kind, given),
        **partial,
    }


def _rope_scaling(family: Family, kind: str, given: dict[str, Any]) -> dict[str, Any] | None:
    """As transformers 4 reads it; 5 reads it too, and where it is there nothing else.

    Version 4's Phi-3 takes a type and two lists of factors and refuses any other field: one that has more, as
    ``attention_factor``, can be said to version 5 alone. The original length is a field beside this.
    """
    if kind == "default":  # sections: of models whose tokens have a place in time, height and width
        return {"rope_type": kind, **given} if "mrope_section" in given else None
    if family.name != "phi3":
        return {"rope_type": kind, **given}
    told = {name: value for name, value in given.items() if name != "original_max_position_embeddings"}
    return {"type" if told.keys() <= {"short_factor", "long_factor"} else "rope_type": kind, **told}


def _rope_fields_by_layer_type(family: Family, config: Config) -> dict[str, Any]:
    """Gemma 3: the layers with a sliding window have a base of their own, ``rope_local_base_freq`` in version 4.

    ``rope_scaling``, where there is one, is that of the other layers.
    """
    both = config.get("rope_parameters") or {}
    full = {**(both.get("full_attention") or {}), **(config.get("rope_scaling") or {})}
    local = dict(both.get("sliding_attention") or {})
    theta = full.pop("rope_theta", None) or config.get("rope_theta") or family.default_rope_theta
    local_theta = local.pop("rope_theta", None) or config.get("rope_local_base_freq") or family.default_local_rope_theta
    kind, local_kind = _pop_kind(full), _pop_kind(local)
    return {
        "rope_parameters": {
            "full_attention": {"rope_type": kind, "rope_theta": theta, **full},
            "sliding_attention": {"rope_type": local_kind, "rope_theta": local_theta, **local},
        },
        "rope_theta": theta,
        "rope_local_base_freq": local_theta,
        "rope_scaling": None if kind == "default" else {"rope_type": kind, **full},
    }


def _pop_kind(rope: dict[str, Any]) -> str:
    """The type of RoPE, under its name of today or its oldest one, taken out of ``rope``."""
    old_name = rope.pop("type", "default")
    kind = str(rope.pop("rope_type", old_name))
    return "default" if kind == "mrope" else kind  # Qwen2-VL's word for its sections
