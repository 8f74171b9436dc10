"""OLMo (arXiv 2402.00838)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from gqasearch.errors import UserError
from gqasearch.models.family import Config, Family
from gqasearch.models.layer import HeadGeometry


@dataclass(frozen=True)
class Olmo(Family):
    """Llama's attention after a LayerNorm without weights."""

    name: ClassVar[str] = "olmo"
    architectures: ClassVar[tuple[str, ...]] = ("OlmoForCausalLM",)
    pairs_side_by_side: ClassVar[bool] = True

    def geometry(self, config: Config) -> HeadGeometry:
        if config.get("clip_qkv") is not None:
            raise UserError(
                f"this OLMo clips its queries, keys and values (clip_qkv={config['clip_qkv']}); only models that do "
                "not (clip_qkv null) are supported: what is clipped depends on the basis of a head, which merges change"
            )
        return super().geometry(config)
