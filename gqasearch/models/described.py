"""Families that differ from Llama (arXiv 2302.13971) in what can be said in a few fields."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from torch import Tensor

from gqasearch.errors import UserError
from gqasearch.models.family import Config, Family, TensorReader, divides_hidden_size, refuse_padding, rotary_fraction
from gqasearch.models.interleaved import halves, neighbours, with_neighbours
from gqasearch.models.layer import HeadGeometry, LayerWeights


@dataclass(frozen=True, kw_only=True)
class Described(Family):
    """Separate q, k, v, o under ``model.layers.N.self_attn``, RoPE over all or a part of the head.

    What a field of the name in ``config.json`` says goes before the defaults here, which are transformers'.

    Args:
        biases: the field of ``config.json`` that gives q, k and v biases, and its default; None: they have none.
        default_kv_heads: KV heads where ``config.json`` names none; None for as many as query heads.
        default_head_dim: size of a head where it names none; None for hidden size / query heads.
        default_rotary_fraction: the part of a head that RoPE turns where it names none.
        neighbours: whether RoPE turns dimensions (2i, 2i + 1) in place of (i, i + r/2).
        padding: whether query heads can be added: any number, those that divide the hidden size, or none.
        norm_after: the RMS norm between attention and the residual stream, and its default eps; None: there is none.
        scale: the field of ``config.json`` that says what multiplies q k, 1 where it names none; None: 1/sqrt(d).
        gain: the field that says what multiplies attention's output; None: nothing does.
        clip: the field of ``config.json`` that bounds the values of q, k and v; such models are refused.
    """

    name: str  # type: ignore[misc]  # these are fields here: a family is an instance, not a class of its own
    architectures: tuple[str, ...]  # type: ignore[misc]
    has_head_norms: bool = False  # type: ignore[misc]
    pairs_side_by_side: bool = False  # type: ignore[misc]
    default_rope_theta: float = 10000.0  # type: ignore[misc]
    default_local_rope_theta: float | None = None  # type: ignore[misc]
    scales_rope_unasked: bool = False  # type: ignore[misc]
    biases: tuple[str, bool] | None = None
    default_kv_heads: int | None = None
    default_head_dim: int | None = None
    default_rotary_fraction: float = 1.0
    neighbours: bool = False
    padding: Literal["any", "divisors", "none"] = "any"
    norm_after: tuple[str, float] | None = None
    clip: str | None = None
    scale: str | None = None
    gain: str | None = None

    def bias_roles(self, config: Config) -> tuple[str, ...]:
        return ("q", "k", "v") if self.biases is not None and config.get(*self.biases) else ()

    def geometry(self, config: Config) -> HeadGeometry:
        if self.clip is not None and config.get(self.clip) is not None:
            raise UserError(
                f"this {self.name} model clips its queries, keys and values ({self.clip}={config[self.clip]}); only "
                f"models that do not ({self.clip} null) are supported: what is clipped depends on the basis of a head, "
                "which merges change"
            )
        defaults = {"num_key_value_heads": self.default_kv_heads, "head_dim": self.default_head_dim}
        named = {name: default if config.get(name) is None else config[name] for name, default in defaults.items()}
        shape = super().geometry({**config, **named})
        return replace(shape, rotary_dim=int(shape.head_dim * rotary_fraction(config, self.default_rotary_fraction)))

    def split_heads(self, got: Mapping[str, Tensor], shape: HeadGeometry) -> dict[str, Tensor]:
        split = super().split_heads(got, shape)
        if not self.neighbours:
            return split
        return {role: one if role[0] == "v" else halves(one, shape.rotary_dim) for role, one in split.items()}

    def cached_order(self, head_dim: int, rotary_dim: int) -> Tensor:
        return neighbours(head_dim, (rotary_dim or head_dim) if self.neighbours else 0)

    def join_heads(self, weights: LayerWeights) -> dict[str, Tensor]:
        if not self.neighbours:
            return super().join_heads(weights)
        # Layers without RoPE are stored as those with it are.
        return super().join_heads(with_neighbours(weights, weights.rotary_dim or weights.head_dim))

    def score_scale(self, layer: int, config: Config) -> float | None:
        return None if self.scale is None else float(config.get(self.scale, 1.0))

    def stream_gain(self, read: TensorReader, layer: int, config: Config, attended: Tensor) -> Tensor | None:
        if self.gain is not None:
            return torch.full_like(attended[..., :1], float(config.get(self.gain, 1.0)))
        if self.norm_after is None:
            return None
        norm, eps = self.norm_after
        weight = read(f"model.layers.{layer}.{norm}.weight")
        wide = attended.to(torch.promote_types(attended.dtype, torch.float32))
        mean = wide.square().mean(-1, keepdim=True) + float(config.get("rms_norm_eps") or eps)
        return weight.to(wide) * mean.rsqrt()

    def takes_query_heads(self, config: Config, query_heads: int) -> bool:
        return self.padding != "divisors" or int(config["hidden_size"]) % query_heads == 0

    def grouped_config(self, config: Mapping[str, Any], query_heads: int, kv_heads: int, head_dim: int) -> Config:
        """The same architecture; raises ``UserError`` for numbers of query heads that transformers 5 refuses."""
        if self.padding == "none":
            refuse_padding(config, query_heads, self.name)
        if self.padding == "divisors":
            divides_hidden_size(config, query_heads, self.name)
        return super().grouped_config(config, query_heads, kv_heads, head_dim)
