"""What a conversion changes: which tensors, to which shapes, and the values of one layer at a time."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Tensor

from gqasearch.checkpoints.layout import Layout
from gqasearch.errors import UserError
from gqasearch.models import CheckpointTensors, Config, Family, HeadGeometry, LayerWeights
from gqasearch.models.shard_header import ShardHeader
from gqasearch.models.tensors import CONVERTIBLE, is_finite


@dataclass(frozen=True)
class Without(CheckpointTensors):
    """The tensors of a checkpoint, ``own``, without those that are ``gone``."""

    own: CheckpointTensors
    gone: frozenset[str]

    @cached_property
    def shard_of(self) -> dict[str, str]:
        return {name: shard for name, shard in self.own.shard_of.items() if name not in self.gone}

    @cached_property
    def headers(self) -> dict[str, ShardHeader]:
        return self.own.headers


class Conversion:
    """The attention tensors of ``source`` in ``layout``; ``merged_layer``: see ``write_checkpoint``.

    ``shapes``: name -> shape of every tensor that changes, known before any layer is merged; ``stored_dtype``: of the
    first layer's queries; ``tensors``: the source, without norms of heads that are no more. Raises ``UserError`` for
    tensors that are missing, are stored in no dtype of ``CONVERTIBLE`` or have other shapes than ``config.json`` says.
    """

    def __init__(
        self,
        source: CheckpointTensors,
        family: Family,
        config: Config,
        layout: Layout,
        merged_layer: Callable[[int], LayerWeights],
    ) -> None:
        self.tensors, self._family, self._config, self._layout = source, family, config, layout
        self._merged_layer = merged_layer
        layers = range(len(layout.slots))
        self._layer_of = {
            self._stored(name): layer for layer in layers for name in family.layer_tensors(layer, config).values()
        }
        missing = [name for name in self._layer_of if name not in source.shard_of]
        if missing:
            raise UserError(f"{source.directory} has no tensor {missing[0]}; gqasearch converts unquantised models")
        self._dtypes = {name: convertible(name, source.stored(name).dtype) for name in self._layer_of}
        self.stored_dtype = self._dtypes[self._stored(family.tensor_name(0, "q.weight"))]
        self.shapes = {name: shape for layer in layers for name, shape in self._planned_shapes(layer).items()}
        gone = self._layer_of.keys() - self.shapes.keys()
        if gone:
            self.tensors = Without(source.directory, source, frozenset(gone))

    def convert(self, name: str) -> dict[str, Tensor]:
        """The layer that this tensor is of: name -> converted tensor, in the dtype that the source stores."""
        layer = self._layer_of[name]
        merged = self._merged_layer(layer)
        found, heads = (len(merged.k), len(merged.v)), self._kv_heads(layer)
        if found != heads:
            raise ValueError(f"layer {layer} was merged to {found} key and value heads, not {heads}")
        written = self._written(merged, layer)
        return {name: cast(tensor, self._dtypes[name], name) for name, tensor in written.items()}

    def dtype_of(self, stored_name: str) -> torch.dtype:
        """Of a tensor that changes."""
        return self._dtypes[stored_name]

    def _kv_heads(self, layer: int) -> tuple[int, int]:
        """Key heads and value heads."""
        return self._layout.kv_heads_per_layer[layer], self._layout.value_heads(layer)

    def _stored(self, name: str) -> str:
        """The source's name for a tensor of the family's."""
        return self._family.stored_name(name, self.tensors.shard_of)

    def _written(self, merged: LayerWeights, layer: int) -> dict[str, Tensor]:
        """A merged layer as it is stored, under the source's names."""
        written = self._family.write_layer(self._layout.lay_out(merged, layer), layer)
        return {self._stored(name): tensor for name, tensor in written.items()}

    def _planned_shapes(self, layer: int) -> dict[str, tuple[int, ...]]:
        """Shapes of one converted layer: tensors without values go the way of those with values."""
        weights, (keys, values) = self._shapes_of_source(layer), self._kv_heads(layer)
        grouped = replace(
            weights,
            k=weights.k[:keys],
            v=weights.v[:values],
            k_bias=None if weights.k_bias is None else weights.k_bias[:keys],
            k_norms=None if weights.k_norms is None else weights.k_norms[:keys],
            k_rows=None if weights.k_rows is None else weights.k_rows[:keys],
            k_gain=None if weights.k_gain is None else weights.k_gain[:keys],
            v_bias=None if weights.v_bias is None else weights.v_bias[:values],
        )
        return {name: tuple(tensor.shape) for name, tensor in self._written(grouped, layer).items()}

    def _shapes_of_source(self, layer: int) -> LayerWeights:
        """One layer of the source without values; refuses shapes other than those of the model's heads."""

        def read(name: str) -> Tensor:
            return torch.empty(self.tensors.stored(self._stored(name)).shape, device="meta")

        shape = self._family.geometry(self._config)
        try:
            weights = self._family.read_layer(read, layer, self._config)
            fits = _has_shapes_of(weights, shape)
        except (RuntimeError, ValueError, IndexError):  # the tensors cannot even be seen head by head
            fits = False
        if not fits:
            names = map(self._stored, self._family.layer_tensors(layer, self._config).values())
            stored = ", ".join(f"{name} {list(self.tensors.stored(name).shape)}" for name in names)
            raise UserError(
                f"{self.tensors.directory}: layer {layer} does not fit config.json, which says "
                f"{shape.num_attention_heads} query heads and {shape.num_kv_heads} KV heads of {shape.head_dim}, "
                f"hidden size {shape.hidden_size}; stored are {stored}"
            )
        return weights


def _has_shapes_of(weights: LayerWeights, shape: HeadGeometry) -> bool:
    queries, heads, d, width = shape.num_attention_heads, shape.num_kv_heads, shape.head_dim, shape.hidden_size
    wanted = [
        (weights.q, (queries, d, width)),
        (weights.k, (heads, d, width)),
        (weights.v, (heads, d, width)),
        (weights.o, (queries, width, d)),
        (weights.q_bias, (queries, d)),
        (weights.k_bias, (heads, d)),
        (weights.v_bias, (heads, d)),
        (weights.sinks, (queries,)),
        (weights.q_norms, (queries, d)),
        (weights.k_norms, (heads, d)),
        (weights.q_gain, (queries, d)),
        (weights.k_gain, (heads, d)),
    ]
    return all(tensor is None or tensor.shape == size for tensor, size in wanted)


def convertible(name: str, dtype: str) -> torch.dtype:
    """The dtype of a tensor as torch has it; raises ``UserError`` for one that holds no plain floats."""
    if dtype not in CONVERTIBLE:
        raise UserError(
            f"{name} is stored as {dtype}; gqasearch converts unquantised models ({', '.join(CONVERTIBLE)})"
        )
    return CONVERTIBLE[dtype]


def cast(tensor: Tensor, dtype: torch.dtype, name: str) -> Tensor:
    """To the dtype that the source stores; float16 may not hold what float32 did."""
    cast = tensor.to("cpu", dtype)
    if not is_finite(cast):
        raise UserError(f"{name} of the converted model holds values that are not finite in {dtype}")
    return cast
