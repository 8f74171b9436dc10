"""Qwen3 (arXiv 2505.09388)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from gqasearch.models.family import Family


@dataclass(frozen=True)
class Qwen3(Family):
    """RMS norm on every q and k head before RoPE, one weight vector for all heads."""

    name: ClassVar[str] = "qwen3"
    architectures: ClassVar[tuple[str, ...]] = ("Qwen3ForCausalLM",)
    has_head_norms: ClassVar[bool] = True
