"""SmolLM3 (Hugging Face, 2025)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from gqasearch.errors import UserError
from gqasearch.models.family import Config, Family

DEFAULT_INTERVAL = 4  # of transformers, where config.json names none


@dataclass(frozen=True)
class SmolLM3(Family):
    """Llama in which some layers, every fourth as a rule, use no RoPE."""

    name: ClassVar[str] = "smollm3"
    architectures: ClassVar[tuple[str, ...]] = ("SmolLM3ForCausalLM",)
    pairs_side_by_side: ClassVar[bool] = True
    default_rope_theta: ClassVar[float] = 2_000_000.0

    def layer_rotary_dim(self, layer: int, config: Config) -> int:
        """0 in layers without RoPE. ``no_rope_layers`` has, despite its name, 1 for a layer that uses it."""
        shape = self.geometry(config)
        uses_rope = config.get("no_rope_layers")
        if uses_rope is None:
            rotated = (layer + 1) % int(config.get("no_rope_layer_interval") or DEFAULT_INTERVAL) != 0
        elif len(uses_rope) < shape.num_layers:
            raise UserError(f"no_rope_layers names {len(uses_rope)} layers, the model has {shape.num_layers}")
        else:
            rotated = bool(uses_rope[layer])
        return shape.rotary_dim if rotated else 0
