"""One group after its merge, and a layer of such groups."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from typing import Any

import torch
from torch import Tensor

from gqasearch.errors import UserError
from gqasearch.merging.selected import OF_HEADS, partitions_of, queries_of
from gqasearch.models import LayerWeights
from gqasearch.models.head_norm import HeadNorm
from gqasearch.separate_grouping import AnyLayer


@dataclass(frozen=True)
class MergedGroup:
    """One group after its merge. n heads, m = n * queries_per_kv query heads, in the group's order.

    ``k`` (d, D), ``v`` (dv, D), ``q`` (m, d, D), ``o`` (m, D, dv); biases ``k_bias`` (d,), ``v_bias``
    (dv,), ``q_bias`` (m, d) or None; ``k_norms`` (d,), ``q_norms`` (m, d) where heads have norms of their own.
    """

    k: Tensor
    v: Tensor
    q: Tensor
    o: Tensor
    k_bias: Tensor | None = None
    v_bias: Tensor | None = None
    q_bias: Tensor | None = None
    k_norms: Tensor | None = None
    q_norms: Tensor | None = None

    def norm_of_queries(self, own: LayerWeights) -> HeadNorm | None:
        """What its queries are normed by; ``own``: the heads that were merged."""
        norm = own.norm_of_queries
        return norm if norm is None or self.q_norms is None else replace(norm, weight=self.q_norms)

    def norm_of_keys(self, own: LayerWeights) -> HeadNorm | None:
        """What its key is normed by."""
        norm = own.norm_of_keys
        return norm if norm is None or self.k_norms is None else replace(norm, weight=self.k_norms)

    def scaled(self, k_scale: Tensor, v_scale: Tensor) -> MergedGroup:
        """K and V, with their biases, times these factors."""
        return replace(
            self,
            k=self.k * k_scale,
            v=self.v * v_scale,
            k_bias=None if self.k_bias is None else self.k_bias * k_scale,
            v_bias=None if self.v_bias is None else self.v_bias * v_scale,
        )

    def to(self, dtype: torch.dtype) -> MergedGroup:
        """The same in another dtype."""
        return replace(self, **{role: part.to(dtype) for role, part in self._parts().items()})

    @property
    def nbytes(self) -> int:
        """Memory of all its tensors."""
        return sum(part.nbytes for part in self._parts().values())

    def _parts(self) -> dict[str, Any]:
        return {field.name: part for field in fields(self) if (part := getattr(self, field.name)) is not None}


def with_groups(
    source: LayerWeights, layer: AnyLayer, merged: Callable[[tuple[int, ...]], MergedGroup]
) -> LayerWeights:
    """The layer with one K and V per group: k, v (G, ...); q, o keep the source's query order.

    ``merged`` gives a group of two or more heads. Single heads are copied bit for bit. Of groups of key heads alone K
    and the queries are taken, of those of value heads V and the outputs.
    """
    parts: dict[str, Any] = {}
    for partition, roles in partitions_of(layer):
        firsts = [heads[0] for heads in partition.groups]
        present = {role: tensor for role in roles if (tensor := getattr(source, role)) is not None}
        own = {role: tensor[firsts] if role in OF_HEADS else tensor.clone() for role, tensor in present.items()}
        for row, heads in enumerate(partition.groups):
            if len(heads) == 1:
                continue
            group, queries = merged(heads), queries_of(source, heads)
            _require_norms(source, group)
            for role, tensor in own.items():
                tensor[row if role in OF_HEADS else queries] = getattr(group, role).to(tensor.dtype)
        parts |= own
    return replace(source, **parts)


def _require_norms(source: LayerWeights, group: MergedGroup) -> None:
    """Raise ``UserError`` for a merge, of a plug-in, that does not say what becomes of norms that it has to merge."""
    if source.k_norms is not None and (group.k_norms is None or group.q_norms is None):
        raise UserError(
            "this merge gives no k_norms and q_norms, which a group needs where every head has a norm of its own; see "
            "gqasearch.merging.one_norm"
        )
