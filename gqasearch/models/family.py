"""The contract of an architecture family: where its heads are, and how to read and write them."""

from __future__ import annotations

from abc import ABC
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor

from gqasearch.errors import UserError
from gqasearch.models.layer import HeadGeometry, LayerWeights

Config = dict[str, Any]
TensorReader = Callable[[str], Tensor]


@dataclass(frozen=True)
class Family(ABC):
    """Models whose attention has separate q, k, v, o projections under ``model.layers.N.self_attn``.

    A new family is a small file: a subclass that names its ``architectures`` and overrides what
    differs. Tensor names are those of the checkpoint, which are also the module paths in memory.
    """

    name: ClassVar[str]
    architectures: ClassVar[tuple[str, ...]]
    has_head_norms: ClassVar[bool] = False

    def attention_path(self, layer: int) -> str:
        """Module path of one layer's attention block; its input is the normed hidden state."""
        return f"model.layers.{layer}.self_attn"

    def tensor_name(self, layer: int, role: str) -> str:
        """Checkpoint name of one tensor. Roles: q k v o, each ``.weight`` or ``.bias``; q_norm, k_norm."""
        path = self.attention_path(layer)
        if role in ("q_norm", "k_norm"):
            return f"{path}.{role}.weight"
        projection, kind = role.split(".")
        return f"{path}.{projection}_proj.{kind}"

    def bias_roles(self, config: Config) -> tuple[str, ...]:
        """Which of q, k, v carry a bias."""
        return ("q", "k", "v") if config.get("attention_bias") else ()

    def geometry(self, config: Config) -> HeadGeometry:
        """Head counts and sizes from ``config.json``; raises ``UserError`` for what cannot be grouped."""
        try:
            heads, hidden = int(config["num_attention_heads"]), int(config["hidden_size"])
            layers = int(config["num_hidden_layers"])
        except KeyError as missing:
            raise UserError(f"config.json of this {self.name} model has no field {missing}") from None
        kv_heads = int(config.get("num_key_value_heads") or heads)
        if heads % kv_heads:
            raise UserError(f"num_key_value_heads={kv_heads} does not divide num_attention_heads={heads}")
        head_dim = int(config.get("head_dim") or hidden // heads)
        return HeadGeometry(layers, heads, kv_heads, head_dim, hidden, rotary_dim=head_dim)

    def layer_tensors(self, layer: int, config: Config) -> dict[str, str]:
        """Role -> checkpoint name of every tensor that a merge may change."""
        roles = ["q.weight", "k.weight", "v.weight", "o.weight"]
        roles += [f"{role}.bias" for role in self.bias_roles(config)]
        return {role: self.tensor_name(layer, role) for role in roles}

    def read_layer(self, read: TensorReader, layer: int, config: Config) -> LayerWeights:
        """Split one layer's 2-D tensors into heads."""
        shape = self.geometry(config)
        got = {role: read(name) for role, name in self.layer_tensors(layer, config).items()}
        d, hidden = shape.head_dim, shape.hidden_size
        norms = {n: read(self.tensor_name(layer, n)) for n in ("q_norm", "k_norm")} if self.has_head_norms else {}

        def bias(role: str) -> Tensor | None:
            tensor = got.get(f"{role}.bias")
            return None if tensor is None else tensor.view(-1, d)

        return LayerWeights(
            q=got["q.weight"].view(-1, d, hidden),
            k=got["k.weight"].view(-1, d, hidden),
            v=got["v.weight"].view(-1, d, hidden),
            o=got["o.weight"].view(hidden, -1, d).transpose(0, 1),
            rotary_dim=shape.rotary_dim,
            q_bias=bias("q"),
            k_bias=bias("k"),
            v_bias=bias("v"),
            **norms,
        )

    def write_layer(self, weights: LayerWeights, layer: int) -> dict[str, Tensor]:
        """Checkpoint name -> 2-D tensor, for every tensor that a merge may change."""
        hidden = weights.q.shape[-1]
        matrices = {"q": weights.q, "k": weights.k, "v": weights.v}
        tensors = {f"{role}.weight": heads.reshape(-1, hidden) for role, heads in matrices.items()}
        tensors["o.weight"] = weights.o.transpose(0, 1).reshape(hidden, -1)
        biases = {"q": weights.q_bias, "k": weights.k_bias, "v": weights.v_bias}
        tensors |= {f"{role}.bias": bias.reshape(-1) for role, bias in biases.items() if bias is not None}
        return {self.tensor_name(layer, role): tensor.contiguous() for role, tensor in tensors.items()}

    def grouped_config(self, config: Mapping[str, Any], query_heads: int, kv_heads: int, head_dim: int) -> Config:
        """``config.json`` of the converted model: ``query_heads`` slots over ``kv_heads`` KV heads."""
        return {
            **config,
            "num_attention_heads": query_heads,
            "num_key_value_heads": kv_heads,
            "head_dim": head_dim,
        }
