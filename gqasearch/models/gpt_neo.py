"""GPT-Neo (Black et al., 2021), which TinyStories (arXiv 2305.07759) are trained as."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import ClassVar

from gqasearch.models.family import Config, Family
from gqasearch.models.layer import HeadGeometry

# Names of config.json -> those of every other family.
FIELDS = {"num_heads": "num_attention_heads", "num_layers": "num_hidden_layers"}


@dataclass(frozen=True)
class GPTNeo(Family):
    """No RoPE: positions are learned and added to the embeddings. Scores are not scaled; every other layer is local."""

    name: ClassVar[str] = "gpt_neo"
    architectures: ClassVar[tuple[str, ...]] = ("GPTNeoForCausalLM",)
    has_grouped_form: ClassVar[bool] = False
    layers_give_tuples: ClassVar[bool] = True
    projections: ClassVar[Mapping[str, str]] = {"q": "q_proj", "k": "k_proj", "v": "v_proj", "o": "out_proj"}

    def attention_path(self, layer: int) -> str:
        return f"transformer.h.{layer}.attn.attention"

    def layer_path(self, layer: int) -> str:
        return f"transformer.h.{layer}"

    def bias_roles(self, config: Config) -> tuple[str, ...]:
        return ()

    def geometry(self, config: Config) -> HeadGeometry:
        named = {FIELDS.get(name, name): value for name, value in config.items()}
        return replace(super().geometry(named), rotary_dim=0)

    def score_scale(self, layer: int, config: Config) -> float:
        return 1.0
