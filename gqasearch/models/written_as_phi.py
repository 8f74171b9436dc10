"""Models in the words of Phi, which is the same network in a form that has grouped KV heads.

GPT-NeoX, Falcon and Phi add attention and MLP to the stream side by side. Phi has one LayerNorm for both. Where the
source gives each a LayerNorm of its own, what the two share is the normed input; their weights and biases move into the
projections that read it:

    W (norm * x + shift) + b   =   (W diag(norm)) x + (b + W shift)
"""

from __future__ import annotations

import re
from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from gqasearch.models.family import Config, Family, TensorReader
from gqasearch.models.layer import HeadGeometry, LayerWeights
from gqasearch.models.phi import Phi

LAYER_OF_PHI = re.compile(r"model\.layers\.(\d+)")


@dataclass(frozen=True)
class PhiOrigins:
    """What a model calls the parts of a Phi. Names of modules; those in a layer from ``layers.N.`` on.

    ``qkv``: rows lie as [KV head, its queries then k then v, d], ``queries_per_kv`` queries each, or by another rule of
    as many rows; with {} in the name q, k and v are tensors of their own, called by it. ``outputs``: tensors
    that may be the output's weight, the first that is stored. ``attention_norm`` and ``mlp_norm`` may be one.
    ``attention_biases``, ``mlp_biases``: whether these projections have biases; a Phi always has, zeros if need be.
    """

    layers: str
    embeddings: str
    final_norm: str
    outputs: tuple[str, ...]
    qkv: str
    dense: str
    up: str
    down: str
    attention_norm: str
    mlp_norm: str
    attention_biases: bool
    mlp_biases: bool
    queries_per_kv: int
    output_bias: bool = False  # whether the output has a bias; a Phi's always has

    @property
    def folds(self) -> bool:
        """Whether norms move into projections; where there is one for both it stays."""
        return self.attention_norm != self.mlp_norm

    @cached_property
    def in_layer(self) -> dict[str, str]:
        """Phi's tensor -> the source's. A bias that the source has not comes from the weight."""
        names = {f"input_layernorm.{kind}": f"{self.attention_norm}.{kind}" for kind in ("weight", "bias")}
        parts = {
            **{f"self_attn.{role}_proj": (self.qkv.format(role), self.attention_biases) for role in "qkv"},
            "self_attn.dense": (self.dense, self.attention_biases),
            "mlp.fc1": (self.up, self.mlp_biases),
            "mlp.fc2": (self.down, self.mlp_biases),
        }
        for phi, (own, biased) in parts.items():
            names[f"{phi}.weight"] = f"{own}.weight"
            names[f"{phi}.bias"] = f"{own}.{'bias' if biased else 'weight'}"
        return names

    def names(self, stored: Mapping[str, str], *, tied: bool) -> dict[str, str]:
        """Name of every tensor of the Phi -> the source's tensor that it comes from; ``stored``: all that it
        has; ``tied``: the output's weight is that of the embeddings.

        The masks and frequencies that old checkpoints store are left out. The output's bias, which these sources have
        not, comes from the output's weight.
        """
        pattern = re.compile(rf"{re.escape(self.layers)}\.(\d+)\.")
        layers = sorted({int(found[1]) for name in stored if (found := pattern.match(name))})
        names = {
            f"model.layers.{layer}.{phi}": f"{self.layers}.{layer}.{own}"
            for layer in layers
            for phi, own in self.in_layer.items()
        }
        names["model.embed_tokens.weight"] = f"{self.embeddings}.weight"
        for kind in ("weight", "bias"):
            names[f"model.final_layernorm.{kind}"] = f"{self.final_norm}.{kind}"
        output = next((name for name in self.outputs if name in stored), None)
        if output is not None and tied and f"{self.embeddings}.weight" not in stored:
            names["model.embed_tokens.weight"] = output  # one of the two is enough
        if output is not None or not tied:
            names["lm_head.weight"] = output or self.outputs[0]
        no_bias = names.get("lm_head.weight", names["model.embed_tokens.weight"])
        names["lm_head.bias"] = "lm_head.bias" if self.output_bias else no_bias
        return names

    def own_shape(self, name: str, origin: str, shape: tuple[int, ...]) -> tuple[int, ...]:
        """Shape of Phi's tensor ``name``, whose origin has ``shape``, before heads are grouped."""
        if is_zero(name, origin):
            shape = shape[:1]
        if "{}" in self.qkv or not origin.rpartition(".")[0].endswith(f".{self.qkv}"):
            return shape
        share = self.queries_per_kv if ".q_proj." in name else 1
        return (shape[0] // (self.queries_per_kv + 2) * share, *shape[1:])

    def with_norm(self, weights: LayerWeights, read: TensorReader, layer: int) -> LayerWeights:
        """The layer as the Phi has it, after the norm that stays: (H, d, D), biases (H, d)."""
        if not self.folds:
            return replace(
                weights,
                q_bias=_or_zeros(weights.q_bias, weights.q),
                k_bias=_or_zeros(weights.k_bias, weights.k),
                v_bias=_or_zeros(weights.v_bias, weights.v),
            )
        norm, shift = self._norm(read, layer, self.attention_norm, weights.q.dtype)
        return replace(
            weights,
            q=weights.q * norm,
            k=weights.k * norm,
            v=weights.v * norm,
            q_bias=_or_zeros(weights.q_bias, weights.q) + weights.q @ shift,
            k_bias=_or_zeros(weights.k_bias, weights.k) + weights.k @ shift,
            v_bias=_or_zeros(weights.v_bias, weights.v) + weights.v @ shift,
        )

    def rest_of_layer(self, read: TensorReader, layer: int) -> dict[str, Tensor]:
        """What else changes in a layer whose norms fold: the MLP's first projection, and a LayerNorm that only norms.

        By Phi's names, in float32 or wider.
        """
        if not self.folds:
            return {}
        path = f"{self.layers}.{layer}.{self.up}"
        weight = read(f"{path}.weight")
        wide = torch.promote_types(weight.dtype, torch.float32)
        weight = weight.to(wide)
        bias = read(f"{path}.bias").to(wide) if self.mlp_biases else torch.zeros_like(weight[:, 0])
        norm, shift = self._norm(read, layer, self.mlp_norm, wide)
        path = f"model.layers.{layer}"
        return {
            f"{path}.mlp.fc1.weight": weight * norm,
            f"{path}.mlp.fc1.bias": bias + weight @ shift,
            f"{path}.input_layernorm.weight": torch.ones_like(norm),
            f"{path}.input_layernorm.bias": torch.zeros_like(shift),
        }

    def _norm(self, read: TensorReader, layer: int, name: str, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """Weight and bias, each (D,)."""
        weight, bias = (read(f"{self.layers}.{layer}.{name}.{kind}").to(dtype) for kind in ("weight", "bias"))
        return weight, bias


def is_zero(name: str, origin: str) -> bool:
    """Whether Phi's tensor is a bias that the source has not."""
    return name.endswith(".bias") and origin.endswith(".weight")


def _or_zeros(bias: Tensor | None, heads: Tensor) -> Tensor:
    """(H, d)."""
    return heads.new_zeros(heads.shape[:2]) if bias is None else bias


class WrittenAsPhi(Family):
    """A family that has no grouped form of its own: each KV head's rows stored together, its queries first."""

    @abstractmethod
    def phi_config(self, config: Config) -> Config:
        """``config.json`` of the Phi that computes what this model does; raises ``UserError`` where none does."""

    @abstractmethod
    def phi_origins(self, config: Config) -> PhiOrigins:
        """Where this model keeps the parts of that Phi."""

    def written_as(self, config: Config) -> tuple[Family, Config]:
        """A Phi, where this model can be one; raises ``UserError`` where it cannot."""
        return Phi(), self.phi_config(config)

    def split_heads(self, got: Mapping[str, Tensor], shape: HeadGeometry) -> dict[str, Tensor]:
        """From rows that lie as [KV head, its queries then k then v, d]."""
        heads: dict[str, Tensor] = {}
        for kind in ("weight", "bias"):
            if (fused := got.get(f"qkv.{kind}")) is not None:
                by_head = fused.view(-1, shape.queries_per_kv + 2, shape.head_dim, *fused.shape[1:])
                heads[f"q.{kind}"] = by_head[:, :-2].flatten(0, 1)
                heads |= {f"k.{kind}": by_head[:, -2], f"v.{kind}": by_head[:, -1]}
        return heads

    def join_heads(self, weights: LayerWeights) -> dict[str, Tensor]:
        """The reverse; needs K and V of every source head: heads that share theirs must be tied first."""

        def fused(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
            by_head = q.unflatten(0, (len(k), -1))
            return torch.cat([by_head, k[:, None], v[:, None]], dim=1).flatten(0, 2)

        tensors = {"qkv.weight": fused(weights.q, weights.k, weights.v)}
        if weights.q_bias is not None and weights.k_bias is not None and weights.v_bias is not None:
            tensors["qkv.bias"] = fused(weights.q_bias, weights.k_bias, weights.v_bias)
        return tensors


def phi_rope(config: Mapping[str, Any], theta: float, fraction: float) -> Config:
    """Fields of RoPE: ``theta`` where the rope's own fields name none, ``fraction`` of a head turned."""
    rope = dict(config.get("rope_scaling") or config.get("rope_parameters") or {})
    kind = rope.pop("type", "default")  # its oldest name
    own = {"rope_type": kind, "rope_theta": theta, **{name: value for name, value in rope.items() if value is not None}}
    return {"partial_rotary_factor": fraction, "rope_parameters": {**own, "partial_rotary_factor": fraction}}
