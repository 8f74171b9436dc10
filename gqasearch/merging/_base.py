"""The contract of a merge: the rule that turns the K and V of a group into one KV head.

A :class:`Merge` holds parameters. ``merge.for_layer(weights, statistics)`` binds it to one layer and
gives a :class:`LayerMerge`, which merges groups of that layer's heads and tells the error of each.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from gqasearch.calibration.statistics import LayerStatistics
from gqasearch.errors import UserError
from gqasearch.grouping import LayerGrouping
from gqasearch.merging.error import measured_error
from gqasearch.merging.merged_group import MergedGroup
from gqasearch.models.layer import LayerWeights

Need = Literal["weights", "statistics", "forward"]


class LayerMerge(ABC):
    """A merge bound to one layer. Arithmetic in float64; results in the layer's own dtype."""

    def __init__(self, weights: LayerWeights, statistics: LayerStatistics | None) -> None:
        self.source = weights
        self.weights = weights.to(torch.float64)
        self.statistics = statistics
        self._groups: dict[tuple[int, ...], MergedGroup] = {}
        self._errors: dict[tuple[int, ...], float] = {}

    @abstractmethod
    def _merge_group(self, heads: tuple[int, ...]) -> MergedGroup:
        """Merge these heads (two or more, ascending)."""

    def _group_errors(self, groups: Sequence[tuple[int, ...]]) -> list[float]:
        """Errors of merging each of these; measured from the merged weights unless a closed form is known.

        An error must have the same bits whatever groups it is computed beside: a search that goes on asks for others.
        Stacks of one must lie in memory as stacks of many do, or libraries take another way through the product.
        """
        return [self.measured_error(heads) for heads in groups]

    def measured_error(self, heads: tuple[int, ...]) -> float:
        """The error of these heads' merged weights, whatever rule made them."""
        return measured_error(self.weights, self.merge_group(heads), heads, self.require_statistics())

    def require_statistics(self) -> LayerStatistics:
        """The statistics this merge was bound with."""
        if self.statistics is None:
            raise UserError("the error of a merge needs calibration statistics")
        return self.statistics

    def queries_of(self, heads: tuple[int, ...]) -> list[int]:
        """The query heads that these heads carry, in order."""
        return [query for head in heads for query in self.source.queries_of(head)]

    def merge_group(self, heads: tuple[int, ...]) -> MergedGroup:
        """The merged group, float64; kept, so that a candidate that shares groups costs nothing."""
        if heads not in self._groups:
            self._groups[heads] = self._merge_group(heads)
        return self._groups[heads]

    def group_error(self, heads: tuple[int, ...]) -> float:
        """Expected squared change of the layer's attention output when ``heads`` (ascending) share.

        0 for a single head. Independent of the other groups: a set function.
        """
        return self.group_errors([heads])[0]

    def group_errors(self, groups: Sequence[tuple[int, ...]]) -> list[float]:
        """``group_error`` of each of these; those not known yet are computed together, which is faster."""
        missing = [heads for heads in dict.fromkeys(groups) if len(heads) > 1 and heads not in self._errors]
        if missing:
            self._errors.update(zip(missing, self._group_errors(missing), strict=True))
        return [self._errors[heads] if len(heads) > 1 else 0.0 for heads in groups]

    def merge(self, grouping: LayerGrouping) -> LayerWeights:
        """The layer with one K and V per group: k, v (G, ...); q, o keep the source's query order.

        Single heads are copied bit for bit.
        """
        src = self.source
        q, o = src.q.clone(), src.o.clone()
        q_bias = None if src.q_bias is None else src.q_bias.clone()
        k, v, k_bias, v_bias = [], [], [], []
        for heads in grouping.groups:
            if len(heads) == 1:
                head = heads[0]
                k.append(src.k[head])
                v.append(src.v[head])
                k_bias.append(None if src.k_bias is None else src.k_bias[head])
                v_bias.append(None if src.v_bias is None else src.v_bias[head])
                continue
            group, queries = self.merge_group(heads), self.queries_of(heads)
            q[queries], o[queries] = group.q.to(q.dtype), group.o.to(o.dtype)
            if q_bias is not None and group.q_bias is not None:
                q_bias[queries] = group.q_bias.to(q.dtype)
            k.append(group.k.to(q.dtype))
            v.append(group.v.to(q.dtype))
            k_bias.append(None if group.k_bias is None else group.k_bias.to(q.dtype))
            v_bias.append(None if group.v_bias is None else group.v_bias.to(q.dtype))
        return replace(
            src,
            q=q,
            o=o,
            q_bias=q_bias,
            k=torch.stack(k),
            v=torch.stack(v),
            k_bias=_stack_or_none(k_bias),
            v_bias=_stack_or_none(v_bias),
        )


@dataclass(frozen=True)
class Merge(ABC):
    """Parameters of a merge are the fields of its dataclass.

    ``name``: how it is asked for; ``reference``: URL of the paper; ``summary``: one line for
    ``gqasearch ls merges``; ``default_refinement``: what is fitted after it where the user names nothing
    (``gqasearch.refining``).
    """

    name: ClassVar[str]
    reference: ClassVar[str]
    summary: ClassVar[str]
    default_refinement: ClassVar[str] = "none"

    @property
    def needs(self) -> Need:
        """What merging with these parameters needs: "weights" alone, or "statistics" (a calibration pass)."""
        return "weights"

    @abstractmethod
    def for_layer(self, weights: LayerWeights, statistics: LayerStatistics | None = None) -> LayerMerge:
        """Bind to one layer; ``statistics`` may be None for a merge that needs weights alone."""

    def parameters(self) -> dict[str, Any]:
        """Field name -> value, as written to grouping.json."""
        return {field.name: getattr(self, field.name) for field in fields(self)}


def required(statistics: LayerStatistics | None, merge: str) -> LayerStatistics:
    """The statistics; raises ``UserError`` where ``merge`` was given none."""
    if statistics is None:
        raise UserError(f"merge {merge} needs calibration statistics")
    return statistics


def _stack_or_none(tensors: list[Tensor | None]) -> Tensor | None:
    present = [tensor for tensor in tensors if tensor is not None]
    return torch.stack(present) if present else None
