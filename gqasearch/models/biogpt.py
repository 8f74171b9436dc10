"""BioGPT (arXiv 2210.10341) and XGLM (arXiv 2112.10668)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import ClassVar

from gqasearch.errors import UserError
from gqasearch.models.family import Config, Family
from gqasearch.models.layer import HeadGeometry

# Names of XGLM's config.json -> those of every other family.
FIELDS = {"d_model": "hidden_size", "attention_heads": "num_attention_heads", "num_layers": "num_hidden_layers"}


@dataclass(frozen=True)
class BioGpt(Family):
    """No RoPE: positions are learned and added to the embeddings. Biases."""

    name: ClassVar[str] = "biogpt"
    architectures: ClassVar[tuple[str, ...]] = ("BioGptForCausalLM",)
    has_grouped_form: ClassVar[bool] = False
    projections: ClassVar[Mapping[str, str]] = {"q": "q_proj", "k": "k_proj", "v": "v_proj", "o": "out_proj"}

    def attention_path(self, layer: int) -> str:
        return f"biogpt.layers.{layer}.self_attn"

    def bias_roles(self, config: Config) -> tuple[str, ...]:
        return ("q", "k", "v")

    def geometry(self, config: Config) -> HeadGeometry:
        return replace(super().geometry(config), rotary_dim=0)


@dataclass(frozen=True)
class XGLM(BioGpt):
    """The same with positions that are sines."""

    name: ClassVar[str] = "xglm"
    architectures: ClassVar[tuple[str, ...]] = ("XGLMForCausalLM",)

    def attention_path(self, layer: int) -> str:
        return f"model.layers.{layer}.self_attn"

    def geometry(self, config: Config) -> HeadGeometry:
        if config.get("add_cross_attention"):
            raise UserError(
                "this XGLM has cross-attention (add_cross_attention), whose keys and values are those of another "
                "model's text; only models without it are supported"
            )
        return super().geometry({FIELDS.get(name, name): value for name, value in config.items()})
