"""Queries, keys and values of a layer stored together, head by head."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from gqasearch.models.family import Family
from gqasearch.models.layer import HeadGeometry, LayerWeights


class HeadByHead(Family):
    """As many keys and values as queries, and biases; what is made of it with fewer is ours alone."""

    def split_heads(self, got: Mapping[str, Tensor], shape: HeadGeometry) -> dict[str, Tensor]:
        """From rows that lie as [head, q k v, d]."""
        return {
            f"{role}.{kind}": heads
            for kind in ("weight", "bias")
            for role, heads in zip(
                "qkv", got[f"qkv.{kind}"].unflatten(0, (-1, 3, shape.head_dim)).unbind(1), strict=True
            )
        }

    def join_heads(self, weights: LayerWeights) -> dict[str, Tensor]:
        """The reverse; where queries outnumber keys, rows lie as q, k, v, each by head."""
        joined = {}
        for kind, heads in (("weight", (weights.q, weights.k, weights.v)), ("bias", self._biases(weights))):
            if len(weights.k) == len(weights.q):
                joined[f"qkv.{kind}"] = torch.stack(heads, 1).flatten(0, 2)
            else:
                joined[f"qkv.{kind}"] = torch.cat([part.flatten(0, 1) for part in heads])
        return joined

    def _biases(self, weights: LayerWeights) -> tuple[Tensor, Tensor, Tensor]:
        if weights.q_bias is None or weights.k_bias is None or weights.v_bias is None:
            raise ValueError(f"a layer of {self.name} has biases")
        return weights.q_bias, weights.k_bias, weights.v_bias
