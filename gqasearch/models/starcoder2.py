"""StarCoder2 (arXiv 2402.19173)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from gqasearch.models.family import Config, Family


@dataclass(frozen=True)
class Starcoder2(Family):
    """Biases on all projections (``use_bias``), LayerNorm, a sliding window."""

    name: ClassVar[str] = "starcoder2"
    architectures: ClassVar[tuple[str, ...]] = ("Starcoder2ForCausalLM",)

    def bias_roles(self, config: Config) -> tuple[str, ...]:
        return ("q", "k", "v") if config.get("use_bias", True) else ()
