"""The contract of an architecture family: where its heads are, and how to read and write them."""

from __future__ import annotations

from abc import ABC
from collections.abc import Callable, Container, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, TypeAlias, get_args

import torch
from torch import Tensor

from gqasearch.errors import UserError
from gqasearch.models.layer import HeadGeometry, LayerWeights

Config = dict[str, Any]
TensorReader = Callable[[str], Tensor]
LONGROPE = ("longrope", "su")  # the second in older files of Phi-3
JOINED = "joined_heads"  # in config.json, for us alone: see gqasearch.models.joined
# What a model predicts: the token that follows, from those before it; tokens that were masked, from all others; or
# none: without a head it gives the hidden states of all tokens.
Objective: TypeAlias = Literal["next-token", "masked", "hidden-states"]
OBJECTIVES: tuple[Objective, ...] = get_args(Objective)
TOKENS: tuple[Objective, ...] = ("next-token", "masked")  # of models with a head: predictions of tokens


@dataclass(frozen=True)
class Family(ABC):
    """Models whose attention has separate q, k, v, o projections under ``model.layers.N.self_attn``.

    A new family is a small file: a subclass that names its ``architectures`` and overrides what
    differs: where modules lie (``attention_path``, ``projections``), the shapes (``geometry``), and for
    projections stored together ``bias_roles``, ``split_heads`` and ``join_heads``. Tensor names are
    those of the checkpoint, which are also the module paths in memory.
    """

    name: ClassVar[str]
    architectures: ClassVar[tuple[str, ...]]
    objective: ClassVar[Objective] = "next-token"
    has_grouped_form: ClassVar[bool] = True  # in transformers' own code: fewer KV heads than query heads
    no_grouped_form: ClassVar[str] = "has as many key and value heads as query heads and no grouped form"  # why not
    has_head_norms: ClassVar[bool] = False
    has_images: ClassVar[bool] = False  # the model reads images, too: see gqasearch.models.text_tower
    layers_give_tuples: ClassVar[bool] = False  # a decoder layer gives (hidden states, ...), not the tensor alone
    stores_transposed: ClassVar[bool] = False  # matrices lie (inputs, outputs)
    pairs_side_by_side: ClassVar[bool] = False  # in llama.cpp, whose converter reorders rows of q and k
    norm_offset: ClassVar[float] = 0.0  # head norms multiply by this plus their stored weight
    # RoPE bases of transformers, where config.json names none; the second in layers with a sliding window, if its own.
    default_rope_theta: ClassVar[float] = 10000.0
    default_local_rope_theta: ClassVar[float | None] = None
    # Whether transformers scales RoPE where config.json names none: what it does then is left to it.
    scales_rope_unasked: ClassVar[bool] = False
    projections: ClassVar[Mapping[str, str]] = {"q": "q_proj", "k": "k_proj", "v": "v_proj", "o": "o_proj"}

    def attention_path(self, layer: int) -> str:
        """Module path of one layer's attention block; its input is the normed hidden state."""
        return f"model.layers.{layer}.self_attn"

    def layer_path(self, layer: int) -> str:
        """Module path of the decoder layer around one attention block."""
        return self.attention_path(layer).rpartition(".")[0]

    def tensor_name(self, layer: int, role: str) -> str:
        """Checkpoint name of one tensor. Roles: q k v o, each ``.weight`` or ``.bias``; q_norm, k_norm.

        Of families that store q, k and v together ("qkv" in ``projections``) those three are one tensor.
        """
        path = self.attention_path(layer)
        if role in ("q_norm", "k_norm"):
            return f"{path}.{role}.weight"
        projection, kind = role.split(".")
        return f"{path}.{self.projections[projection if projection in self.projections else 'qkv']}.{kind}"

    def bias_roles(self, config: Config) -> tuple[str, ...]:
        """Which of the projections other than o carry a bias."""
        return ("q", "k", "v") if config.get("attention_bias") else ()

    def geometry(self, config: Config) -> HeadGeometry:
        """Head counts and sizes from ``config.json``; raises ``UserError`` for what cannot be grouped."""
        heads, hidden, layers = (
            self._count(config, field) for field in ("num_attention_heads", "hidden_size", "num_hidden_layers")
        )
        kv_heads = self._count(config, "num_key_value_heads", default=heads)
        if heads % kv_heads:
            raise UserError(f"num_key_value_heads={kv_heads} does not divide num_attention_heads={heads}")
        head_dim = self._count(config, "head_dim", default=hidden // heads)
        return HeadGeometry(layers, heads, kv_heads, head_dim, hidden, rotary_dim=head_dim)

    def _count(self, config: Config, field: str, default: int | None = None) -> int:
        """A number of ``config.json``, at least 1; ``default`` where it names none."""
        if config.get(field) is None and default is not None:
            return default
        if field not in config:
            raise UserError(f"config.json of this {self.name} model has no field {field!r}")
        value: object = config[field]
        if type(value) is not int or value < 1:
            raise UserError(f"config.json of this {self.name} model: {field} must be a number from 1 on, got {value!r}")
        return value

    def cached_order(self, head_dim: int, rotary_dim: int) -> Tensor:
        """Which dimension of a key, as ``LayerWeights`` has them, stands at each place of the cache, (d,).

        ``rotary_dim``: of the layer.
        """
        return torch.arange(head_dim)

    def layer_rotary_dim(self, layer: int, config: Config) -> int:
        """How many dimensions of a key this layer rotates: the model's, or 0 where the layer uses no RoPE.

        Under head norms a layer without RoPE is taken for one that turns all by nothing (``turns``): what passes the
        norm's weights there is what passes RoPE, one factor a pair.
        """
        return self.geometry(config).rotary_dim

    def turns_of(self, positions: int, config: Config) -> tuple[Tensor, Tensor] | None:
        """What RoPE turns by at so many positions, cosines and sines (T, r), of a model that tells no layer of it."""
        return None

    def turns(self, layer: int, config: Config) -> bool:
        """Whether what ``layer_rotary_dim`` counts is turned by a token's place; if not, by nothing."""
        return True

    def context_length(self, config: Config) -> int | None:
        """The longest block of tokens that the model can read; None where ``config.json`` names no limit."""
        limit = config.get("max_position_embeddings", config.get("n_positions"))  # the latter is GPT-2's word
        return None if limit is None else int(limit)

    def short_length(self, config: Config) -> int | None:
        """Tokens up to which a text is turned by other frequencies than a longer one; None where the model has one set.

        longrope decides that for a whole batch by its longest text, padding included. transformers prefers the field
        outside the RoPE parameters.
        """
        rope = config.get("rope_scaling") or config.get("rope_parameters") or {}
        if rope.get("rope_type", rope.get("type")) not in LONGROPE:
            return None
        if rope.get("short_factor") is not None and rope.get("short_factor") == rope.get("long_factor"):
            return None
        field = "original_max_position_embeddings"
        limit = config.get(field) or rope.get(field) or config.get("max_position_embeddings")
        return None if limit is None else int(limit)

    def vocabulary(self, config: Config) -> int | None:
        """How many tokens the model has embeddings of; None where ``config.json`` leaves that to transformers."""
        size = config.get("vocab_size")
        return None if size is None else int(size)

    def score_scale(self, layer: int, config: Config) -> float | None:
        """What multiplies q k before the softmax; None for 1/sqrt(head_dim)."""
        return None

    def stream_gain(self, read: TensorReader, layer: int, config: Config, attended: Tensor) -> Tensor | None:
        """What multiplies attention's output ``attended`` (..., D) before it is added to the residual stream.

        Of the same number of dimensions; None where nothing does.
        """
        return None

    def other_names(self, name: str) -> tuple[str, ...]:
        """What some checkpoints call a tensor, or a module.

        One that was saved from the model without its output head leaves the first part of every name out.
        """
        return (name.partition(".")[2],)

    def stored_name(self, name: str, stored: Container[str]) -> str:
        """What a checkpoint that holds the tensors ``stored`` calls this one."""
        return next((one for one in (name, *self.other_names(name)) if one in stored), name)

    def reading(self, config: Config) -> Family:
        """This family, or another one of the same architecture that the rest of ``config.json`` names."""
        return self

    def completed(self, config: Config) -> Config:
        """``config.json`` with all fields where they are looked for."""
        return config

    def layer_tensors(self, layer: int, config: Config) -> dict[str, str]:
        """Role -> checkpoint name of every tensor that a merge may change."""
        roles = [f"{projection}.weight" for projection in self.projections]
        roles += [f"{projection}.bias" for projection in self.bias_roles(config)]
        return {role: self.tensor_name(layer, role) for role in roles}

    def read_layer(self, read: TensorReader, layer: int, config: Config) -> LayerWeights:
        """One layer's tensors by head, as views where the layout allows."""
        shape = self.geometry(config)
        got = {role: read(name) for role, name in self.layer_tensors(layer, config).items()}
        heads = self.split_heads(got, shape)
        return LayerWeights(
            q=heads["q.weight"],
            k=heads["k.weight"],
            v=heads["v.weight"],
            o=got["o.weight"].unflatten(1, (-1, shape.head_dim)).transpose(0, 1),
            rotary_dim=self.layer_rotary_dim(layer, config),
            q_bias=heads.get("q.bias"),
            k_bias=heads.get("k.bias"),
            v_bias=heads.get("v.bias"),
            **self.head_norms(read, layer, config),
            score_scale=self.score_scale(layer, config),
            joined=joined_of(config),
        )

    def head_norms(self, read: TensorReader, layer: int, config: Config) -> dict[str, Any]:
        """What ``LayerWeights`` has of norms of single heads, by its fields."""
        norms = ("q_norm", "k_norm") if self.has_head_norms else ()
        return {norm: self._norm_weight(read(self.tensor_name(layer, norm))) for norm in norms}

    def _norm_weight(self, stored: Tensor) -> Tensor:
        """What a head norm multiplies by; float32 or wider where something is added, as the models compute it."""
        if not self.norm_offset:
            return stored
        return self.norm_offset + stored.to(torch.promote_types(stored.dtype, torch.float32))

    def split_heads(self, got: Mapping[str, Tensor], shape: HeadGeometry) -> dict[str, Tensor]:
        """Tensors as stored, by role, to heads: q, k, v ``.weight`` (heads, d, D) and ``.bias`` (heads, d)."""
        return {
            role: tensor.view(-1, shape.head_dim, *tensor.shape[1:])
            for role, tensor in got.items()
            if not role.startswith("o.")
        }

    def join_heads(self, weights: LayerWeights) -> dict[str, Tensor]:
        """The reverse of ``split_heads``: role -> tensor as stored."""
        by_head = {
            "q.weight": weights.q,
            "k.weight": weights.k,
            "v.weight": weights.v,
            "q.bias": weights.q_bias,
            "k.bias": weights.k_bias,
            "v.bias": weights.v_bias,
        }
        return {role: heads.flatten(0, 1) for role, heads in by_head.items() if heads is not None}

    def write_layer(self, weights: LayerWeights, layer: int) -> dict[str, Tensor]:
        """Checkpoint name -> tensor as stored, for every tensor that a merge may change."""
        tensors = {**self.join_heads(weights), "o.weight": weights.o.transpose(0, 1).flatten(1)}
        return {self.tensor_name(layer, role): tensor.contiguous() for role, tensor in tensors.items()}

    def written_as(self, config: Config) -> tuple[Family, Config]:
        """Family and ``config.json`` in whose words converted models are written: its own, where they can say it."""
        return self, config

    def takes_query_heads(self, config: Config, query_heads: int) -> bool:
        """Whether engines take this architecture with so many query heads."""
        return True

    def grouped_config(self, config: Mapping[str, Any], query_heads: int, kv_heads: int, head_dim: int) -> Config:
        """``config.json`` of the converted model: ``query_heads`` slots over ``kv_heads`` KV heads.

        The source's where there is no such form: the ragged layout's own fields say what its heads are.
        """
        if not self.has_grouped_form:
            return dict(config)
        return {
            **config,
            "num_attention_heads": query_heads,
            "num_key_value_heads": kv_heads,
            "head_dim": head_dim,
        }


def text_of(config: Mapping[str, Any]) -> Config:
    """The fields of ``config.json`` that are of the text model: of a model that reads images its ``text_config``."""
    text: Config | None = config.get("text_config")
    return dict(config) if text is None else text


def joined_of(config: Mapping[str, Any]) -> int:
    """How many heads' room every head of this model has, or had before it was converted: 1 as others write it."""
    return int(config.get(JOINED, 1))


def rotary_fraction(config: Mapping[str, Any], default: float) -> float:
    """The part of a head that RoPE turns, where transformers 5 or 4 puts it in ``config.json``."""
    rope = config.get("rope_scaling") or config.get("rope_parameters") or {}
    return float(rope.get("partial_rotary_factor") or config.get("partial_rotary_factor") or default)


def divides_hidden_size(config: Mapping[str, Any], query_heads: int, model: str) -> None:
    """Raise ``UserError`` for a number of query heads that transformers 5 refuses for ``model``."""
    if config["hidden_size"] % query_heads:
        raise UserError(
            f"{model} of hidden size {config['hidden_size']} cannot be query-padded to {query_heads} query heads: "
            "transformers takes only numbers that divide the hidden size, and none is near. Use groups of equal size "
            "(--equal-sizes)."
        )


def refuse_padding(config: Mapping[str, Any], query_heads: int, model: str) -> None:
    """Raise ``UserError`` where query heads would be added to a model that has no ``head_dim`` of its own."""
    if query_heads != config["num_attention_heads"]:
        raise UserError(
            f"a {model} cannot be query-padded: its head size is always hidden_size / num_attention_heads. "
            "Use groups of equal size (--equal-sizes)."
        )
