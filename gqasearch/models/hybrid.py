"""Families in which the layers without a sliding window use no RoPE."""

from __future__ import annotations

from dataclasses import dataclass

from gqasearch.errors import UserError
from gqasearch.models.described import Described
from gqasearch.models.family import Config

DEFAULT_PATTERN = 4  # of transformers: every fourth layer sees all tokens
DEFAULT_WINDOW = 4096


@dataclass(frozen=True, kw_only=True)
class Hybrid(Described):
    """RoPE in layers with a sliding window alone.

    Args:
        rotates_without_windows: of a model that has no sliding windows at all, whether all layers use RoPE or none.
    """

    rotates_without_windows: bool

    def layer_rotary_dim(self, layer: int, config: Config) -> int:
        shape = self.geometry(config)
        if config.get("sliding_window", DEFAULT_WINDOW) is None:
            return shape.rotary_dim if self.rotates_without_windows else 0
        kinds = config.get("layer_types")
        if kinds is None:
            pattern = config.get("sliding_window_pattern") or DEFAULT_PATTERN
            if type(pattern) is not int:
                raise UserError(
                    f"config.json of this {self.name} model: sliding_window_pattern must be a number, got {pattern!r}, "
                    "or layer_types must list the kind of every layer"
                )
            return shape.rotary_dim if (layer + 1) % pattern else 0
        if len(kinds) < shape.num_layers:
            raise UserError(f"layer_types names {len(kinds)} layers, the model has {shape.num_layers}")
        return shape.rotary_dim if kinds[layer] == "sliding_attention" else 0
