"""Mistral (arXiv 2310.06825)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from gqasearch.models.family import Config, Family


@dataclass(frozen=True)
class Mistral(Family):
    """Llama without biases; ``head_dim`` may differ from hidden / heads."""

    name: ClassVar[str] = "mistral"
    architectures: ClassVar[tuple[str, ...]] = ("MistralForCausalLM",)
    pairs_side_by_side: ClassVar[bool] = True

    def bias_roles(self, config: Config) -> tuple[str, ...]:
        return ()
