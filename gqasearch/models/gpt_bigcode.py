"""GPT-BigCode (arXiv 2301.03988) with a KV head for every query head."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import ClassVar

from gqasearch.errors import UserError
from gqasearch.models.family import Config
from gqasearch.models.gpt2 import FIELDS
from gqasearch.models.head_by_head import HeadByHead
from gqasearch.models.layer import HeadGeometry


@dataclass(frozen=True)
class GPTBigCode(HeadByHead):
    """GPT-2's network. A head's query, key and value lie side by side; of a layer with fewer KV heads all queries come
    first, then all keys, then all values, as where there is one KV head.
    """

    name: ClassVar[str] = "gpt_bigcode"
    architectures: ClassVar[tuple[str, ...]] = ("GPTBigCodeForCausalLM",)
    has_grouped_form: ClassVar[bool] = False
    projections: ClassVar[Mapping[str, str]] = {"qkv": "c_attn", "o": "c_proj"}

    def attention_path(self, layer: int) -> str:
        return f"transformer.h.{layer}.attn"

    def bias_roles(self, config: Config) -> tuple[str, ...]:
        return ("qkv",)

    def geometry(self, config: Config) -> HeadGeometry:
        if config.get("multi_query", True):
            raise UserError(
                "this GPT-BigCode (StarCoder, SantaCoder and their kind) has one KV head already (multi_query), and "
                "there is nothing to merge; only models with one for every query head (multi_query false) are supported"
            )
        if config.get("add_cross_attention"):
            raise UserError(
                "this GPT-BigCode has cross-attention (add_cross_attention), whose keys and values are those of "
                "another model's text; only models without it are supported"
            )
        # transformers writes a num_key_value_heads beside, which may be that of its default number of heads.
        named = {FIELDS.get(name, name): value for name, value in config.items() if name != "num_key_value_heads"}
        return replace(super().geometry(named), rotary_dim=0)

    def score_scale(self, layer: int, config: Config) -> float | None:
        return None if config.get("scale_attn_weights", True) else 1.0
