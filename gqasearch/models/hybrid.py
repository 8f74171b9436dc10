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
        rotary_dim = self.geometry(config).rotary_dim
        return rotary_dim if self.has_head_norms or self.turns(layer, config) else 0

    def turns(self, layer: int, config: Config) -> bool:
        if config.get("sliding_window", DEFAULT_WINDOW) is None:
            return self.rotates_without_windows
        kinds = config.get("layer_types")
        if kinds is None:
            pattern = config.get("sliding_window_pattern") or DEFAULT_PATTERN
            if type(pattern) is not int:
                raise UserError(
                    f"config.json of this {self.name} model: sliding_window_pattern must be a number, got {pattern!r}, "
                    "or layer_types must list the kind of every layer"
                )
            return (layer + 1) % pattern != 0
        layers = self.geometry(config).num_layers
        if len(kinds) < layers:
            raise UserError(f"layer_types names {len(kinds)} layers, the model has {layers}")
        return bool(kinds[layer] == "sliding_attention")
