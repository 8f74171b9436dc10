"""``config.json`` of a converted checkpoint, read alike by transformers 4 and 5."""

from __future__ import annotations

from typing import Any

import torch
import transformers

from gqasearch.checkpoints.layout import Layout
from gqasearch.models import Config, Family

# True of the source only: its path, its remote code, how many slices its projections were computed in.
SOURCE_ONLY = ("_name_or_path", "auto_map", "pretraining_tp")
DEFAULT_ROPE_THETA = 10000.0  # of every supported family, in transformers 4 and 5


def stock_config(family: Family, config: Config, layout: Layout, stored_dtype: torch.dtype) -> Config:
    """The source's ``config.json`` with the heads of ``layout``.

    ``stored_dtype``: of the source's attention weights, named when the source names none.
    """
    head_dim = family.geometry(config).head_dim
    grouped = family.grouped_config(config, layout.query_heads, layout.kv_heads, head_dim)
    kept = {name: value for name, value in grouped.items() if name not in SOURCE_ONLY}
    dtype = config.get("dtype") or config.get("torch_dtype") or str(stored_dtype).removeprefix("torch.")
    return {
        **kept,
        **_rope_fields(config),
        "dtype": dtype,
        "torch_dtype": dtype,
        # transformers 5 takes a Mistral written by an older version, or by none named, for one with a
        # broken tokenizer and says to patch it; a Llama written as Mistral must not be patched.
        "transformers_version": transformers.__version__,
    }


def _rope_fields(config: Config) -> dict[str, Any]:
    """RoPE for transformers 5 (``rope_parameters``) and 4 (``rope_theta``, ``rope_scaling``).

    Precedence as in transformers 5: ``rope_scaling`` over ``rope_parameters``, a theta inside over one beside.
    """
    given = dict(config.get("rope_scaling") or config.get("rope_parameters") or {})
    theta = given.pop("rope_theta", None) or config.get("rope_theta") or DEFAULT_ROPE_THETA
    old_name = given.pop("type", "default")
    kind = given.pop("rope_type", old_name)
    return {
        "rope_parameters": {"rope_type": kind, "rope_theta": theta, **given},
        "rope_theta": theta,
        "rope_scaling": None if kind == "default" else {"rope_type": kind, **given},
    }
