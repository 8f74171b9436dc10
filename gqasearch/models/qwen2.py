"""Qwen2 and Qwen2.5 (arXiv 2407.10671)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from gqasearch.models.family import Config, Family


@dataclass(frozen=True)
class Qwen2(Family):
    """Biases on q, k and v, none on o."""

    name: ClassVar[str] = "qwen2"
    architectures: ClassVar[tuple[str, ...]] = ("Qwen2ForCausalLM",)

    def bias_roles(self, config: Config) -> tuple[str, ...]:
        return ("q", "k", "v")
