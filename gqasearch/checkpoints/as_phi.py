"""GPT-NeoX and Falcon written as a Phi: seen as if stored under Phi's names, then converted and written like any.

Tensors that only change their name keep their bytes, the others are computed a layer at a time.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Tensor

from gqasearch.checkpoints.conversion import Conversion, cast, convertible
from gqasearch.checkpoints.layout import Layout
from gqasearch.errors import UserError
from gqasearch.models import CheckpointTensors, Config, LayerWeights
from gqasearch.models.shard_header import ShardHeader, StoredTensor
from gqasearch.models.written_as_phi import LAYER_OF_PHI, PhiOrigins, WrittenAsPhi, is_zero

OUTPUT_BIAS = "lm_head.bias"


@dataclass(frozen=True)
class PhiTensors(CheckpointTensors):
    """The tensors of a source, ``own``, under Phi's names; those that are computed have the place of their origin.

    ``tied``: the output's weight is that of the embeddings.
    """

    own: CheckpointTensors
    origins: PhiOrigins
    tied: bool

    @cached_property
    def known(self) -> dict[str, str]:
        """The model's name of every tensor -> the stored one, which may leave the first part out."""
        first = f"{self.origins.layers.partition('.')[0]}."
        whole = {
            name: name.startswith(first) or name in (*self.origins.outputs, OUTPUT_BIAS) for name in self.own.shard_of
        }
        return {name if is_whole else first + name: name for name, is_whole in whole.items()}

    @cached_property
    def origin(self) -> dict[str, str]:
        """Phi's name -> the stored one; raises ``UserError`` where one is missing."""
        names = self.origins.names(self.known, tied=self.tied)
        missing = [name for name in names.values() if name not in self.known]
        if missing:
            raise UserError(f"{self.directory} has no tensor {missing[0]}; gqasearch converts unquantised models")
        return {name: self.known[own] for name, own in names.items()}

    def read_own(self, name: str) -> Tensor:
        """The source's tensor of this name in its model."""
        return self.own.read(self.known.get(name, name))

    @cached_property
    def shard_of(self) -> dict[str, str]:
        return {name: self.own.shard_of[origin] for name, origin in self.origin.items()}

    @cached_property
    def headers(self) -> dict[str, ShardHeader]:
        return self.own.headers

    def stored(self, name: str) -> StoredTensor:
        """Dtype and place of the origin, the tensor's own shape."""
        origin = self.origin[name]
        place = self.own.stored(origin)
        return replace(place, shape=self.origins.own_shape(name, origin, place.shape))


class AsPhi:
    """As ``Conversion``, of a source that becomes a Phi. ``tensors``: what the shards are of."""

    def __init__(
        self,
        own: CheckpointTensors,
        family: WrittenAsPhi,
        config: Config,
        layout: Layout,
        merged_layer: Callable[[int], LayerWeights],
    ) -> None:
        def folded(layer: int) -> LayerWeights:
            merged = merged_layer(layer)
            wide = torch.promote_types(merged.q.dtype, torch.float32)
            return origins.with_norm(merged.to(wide), self.tensors.read_own, layer)

        phi, its_config = family.written_as(config)
        origins = family.phi_origins(config)
        self.tensors = PhiTensors(own.directory, own, origins, bool(its_config.get("tie_word_embeddings")))
        self._attention = Conversion(self.tensors, phi, its_config, layout, folded)
        self.stored_dtype = self._attention.stored_dtype
        computed = [name for name in self.tensors.shard_of if self._is_computed(name)]
        self._dtypes = {name: convertible(name, self.tensors.stored(name).dtype) for name in computed}
        self.shapes = self._attention.shapes | {name: self.tensors.stored(name).shape for name in computed}

    def convert(self, name: str) -> Mapping[str, Tensor]:
        """The layer that this tensor is of, or the output's bias: name -> tensor, in the source's dtype."""
        if name == OUTPUT_BIAS:
            return {name: self._zeros(name)}
        path, layer = _layer_of(name)
        made = self._attention.convert(f"{path}.self_attn.q_proj.weight")
        for other, tensor in self.tensors.origins.rest_of_layer(self.tensors.read_own, layer).items():
            made[other] = cast(tensor, self._dtypes[other], other)
        absent = (other for other in self._dtypes if other.startswith(f"{path}.") and other not in made)
        return made | {other: self._zeros(other) for other in absent}

    def _zeros(self, name: str) -> Tensor:
        """A bias that the source has not."""
        return torch.zeros(self.shapes[name], dtype=self._dtypes[name])

    def _is_computed(self, name: str) -> bool:
        """Whether this tensor, outside of attention's heads, has no bytes of its own in the source."""
        if name in self._attention.shapes:
            return False
        folded = self.tensors.origins.folds and (".mlp.fc1." in name or ".input_layernorm." in name)
        return folded or is_zero(name, self.tensors.origin[name])


def _layer_of(name: str) -> tuple[str, int]:
    """Path and number of the layer that this tensor is of."""
    found = LAYER_OF_PHI.match(name)
    if found is None:
        raise ValueError(f"{name} is in no layer")
    return found[0], int(found[1])
