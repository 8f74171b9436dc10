"""A converted model in the words of another architecture that computes the same: tensors under other names.

What only changes its name keeps its bytes; tensors that the other architecture has beside the source's are computed
with the layer they are of, and have the place of one of the source's.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

from torch import Tensor

from gqasearch.checkpoints.conversion import Conversion
from gqasearch.models import CheckpointTensors
from gqasearch.models.shard_header import ShardHeader, StoredTensor
from gqasearch.models.whole import HARMLESS

EMBEDDINGS, OUTPUT = "model.embed_tokens.weight", "lm_head.weight"
LAYER = re.compile(r"model\.layers\.(\d+)\.")


@dataclass(frozen=True)
class CarriedTensors(CheckpointTensors):
    """The tensors of a source, ``own``, under a carrier's names; ``origin``: its name -> the stored one."""

    own: CheckpointTensors
    origin: Mapping[str, str]

    @cached_property
    def shard_of(self) -> dict[str, str]:
        return {name: self.own.shard_of[origin] for name, origin in self.origin.items()}

    @cached_property
    def headers(self) -> dict[str, ShardHeader]:
        return self.own.headers

    def stored(self, name: str) -> StoredTensor:
        """Dtype, shape and place of the origin."""
        return self.own.stored(self.origin[name])


def whole_names(own: CheckpointTensors, *, untied: bool) -> dict[str, str]:
    """A Llama's name of every tensor -> the stored one, which may leave the first part out.

    Buffers that old checkpoints store are left out. ``untied``: an output head that is not stored is the embeddings.
    """
    kept = [name for name in own.shard_of if not HARMLESS.search(name)]
    names = {name if name.startswith(("model.", "lm_head.")) else f"model.{name}": name for name in kept}
    return {OUTPUT: names[EMBEDDINGS], **names} if untied and EMBEDDINGS in names else names


def whole_layer(attention: Conversion, names: Mapping[str, str], layer: int) -> dict[str, Tensor]:
    """The converted attention of one layer under a Llama's names."""
    whole = {own: name for name, own in names.items()}
    made = attention.convert(names[f"model.layers.{layer}.self_attn.q_proj.weight"])
    return {whole[name]: tensor for name, tensor in made.items()}


def layer_of(name: str) -> int:
    """The layer that this tensor is of."""
    found = LAYER.match(name)
    if found is None:
        raise ValueError(f"{name} is in no layer")
    return int(found[1])
