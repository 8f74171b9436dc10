"""Gemma (arXiv 2403.08295)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from gqasearch.models.family import Family


@dataclass(frozen=True)
class Gemma(Family):
    """Llama's attention with a ``head_dim`` of its own; RMS norms whose stored weights are added to 1."""

    name: ClassVar[str] = "gemma"
    architectures: ClassVar[tuple[str, ...]] = ("GemmaForCausalLM",)
