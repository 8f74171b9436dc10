"""Where checkpoints have LayerNorms of single heads."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from gqasearch.models.family import Config, Family, TensorReader
from gqasearch.models.layer import HeadGeometry, LayerWeights

SHARED = (("norm", "weight"), ("shift", "bias"))
NORMS = ("q_norm", "k_norm")
# Architecture -> the field of config.json that puts such norms into it.
VARIANTS = {"PhiForCausalLM": "qk_layernorm", "StableLmForCausalLM": "qk_layernorm", "CohereForCausalLM": "use_qk_norm"}


def called(config: Mapping[str, Any]) -> str:
    """The architecture, with the field where it is this variant of one that engines may know without it alone."""
    architecture = str(config["architectures"][0])
    field = VARIANTS.get(architecture)
    return f"{architecture} with {field}" if field is not None and config.get(field) else architecture


def shared_layer_norms(read: TensorReader, attention: str) -> dict[str, Any]:
    """Fields of ``LayerWeights`` for one LayerNorm of all query heads and one of all key heads (Persimmon, Phi)."""
    named = {f"{side}_{field}": f"{attention}.{side}_layernorm.{kind}" for side in "qk" for field, kind in SHARED}
    return {"centred": True, **{field: read(name) for field, name in named.items()}}


class OwnLayerNorms(Family):
    """Goes before a family in which every head may have a LayerNorm of its own, without biases.

    A merge changes those of keys, and what of them passes RoPE goes into those of queries, so both are written.
    """

    def has_own_norms(self, config: Config) -> bool:
        """Whether this model has them."""
        raise NotImplementedError

    def norm_roles(self, config: Config) -> tuple[str, ...]:
        """Their tensors, by roles that begin with one of ``NORMS``."""
        return NORMS if self.has_own_norms(config) else ()

    def layer_tensors(self, layer: int, config: Config) -> dict[str, str]:
        norms = {role: self.tensor_name(layer, role) for role in self.norm_roles(config)}
        return {**super().layer_tensors(layer, config), **norms}

    def split_heads(self, got: Mapping[str, Tensor], shape: HeadGeometry) -> dict[str, Tensor]:
        return super().split_heads({role: one for role, one in got.items() if not role.startswith(NORMS)}, shape)

    def head_norms(self, read: TensorReader, layer: int, config: Config) -> dict[str, Any]:
        if not self.has_own_norms(config):
            return {}
        stored = {role: read(self.tensor_name(layer, role)) for role in self.norm_roles(config)}
        of_side = {norm: [one for role, one in stored.items() if role.startswith(norm)] for norm in NORMS}
        return {"centred": True, **{f"{norm}s": self.norms_of(weights) for norm, weights in of_side.items()}}

    def norms_of(self, stored: list[Tensor]) -> Tensor:
        """Weights by head (n, d), of the tensors that have them."""
        return torch.stack(stored)

    def join_heads(self, weights: LayerWeights) -> dict[str, Tensor]:
        joined = super().join_heads(weights)
        if weights.q_norms is not None and weights.k_norms is not None:
            joined |= self.stored_norms("q_norm", weights.q_norms) | self.stored_norms("k_norm", weights.k_norms)
        return joined

    def stored_norms(self, norm: str, weights: Tensor) -> dict[str, Tensor]:
        """The reverse of ``norms_of``, by role."""
        return {f"{norm}.{head}": weight for head, weight in enumerate(weights)}
