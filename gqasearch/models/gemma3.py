"""Gemma 3, text only (arXiv 2503.19786)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from gqasearch.models.gemma2 import Gemma2


@dataclass(frozen=True)
class Gemma3(Gemma2):
    """Gemma 2 without soft caps; RMS norms on q and k heads; another RoPE in layers with a sliding window."""

    name: ClassVar[str] = "gemma3_text"
    architectures: ClassVar[tuple[str, ...]] = ("Gemma3ForCausalLM",)
    has_head_norms: ClassVar[bool] = True
    norm_offset: ClassVar[float] = 1.0
    default_rope_theta: ClassVar[float] = 1_000_000.0
    default_local_rope_theta: ClassVar[float | None] = 10_000.0
