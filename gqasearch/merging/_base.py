"""The contract of a merge: the rule that turns the K and V of a group into one KV head.

A :class:`Merge` holds parameters. ``merge.for_layer(weights, statistics)`` binds it to one layer and
gives a :class:`LayerMerge`, which merges groups of that layer's heads and tells the error of each.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any, ClassVar, Literal

import torch

from gqasearch.calibration.statistics import LayerStatistics
from gqasearch.errors import UserError
from gqasearch.merging.error import measured_error
from gqasearch.merging.merged_group import MergedGroup, with_groups
from gqasearch.merging.moments import like
from gqasearch.merging.norm_scale import with_mean_norms
from gqasearch.merging.selected import selected
from gqasearch.models.layer import LayerWeights
from gqasearch.separate_grouping import AnyLayer, Side

Need = Literal["weights", "statistics", "forward"]


class LayerMerge(ABC):
    """A merge bound to one layer. Arithmetic in float64, of the heads it is about; results in the layer's own dtype.

    What it keeps: the layer's weights and statistics as they are given, the errors it has told, and what a merge
    derives from all heads at once.
    """

    def __init__(self, weights: LayerWeights, statistics: LayerStatistics | None) -> None:
        self.source = weights
        self.statistics = statistics
        self._errors: dict[tuple[Side | None, tuple[int, ...]], float] = {}

    @abstractmethod
    def merge_group(self, heads: tuple[int, ...]) -> MergedGroup:
        """These heads (two or more, ascending) merged, float64."""

    def _group_errors(self, groups: Sequence[tuple[int, ...]], side: Side | None) -> list[float]:
        """Errors of merging each of these; measured from the merged weights unless a closed form is known.

        ``side``: of what, None for both.

        An error must have the same bits whatever groups it is computed beside: a search that goes on asks for others.
        Stacks of one must lie in memory as stacks of many do, or libraries take another way through the product.
        """
        return [self.measured_error(heads, side) for heads in groups]

    def measured_error(self, heads: tuple[int, ...], side: Side | None = None) -> float:
        """The error of these heads' merged weights, whatever rule made them; of one ``side`` alone if given."""
        return measured_error(self.source, self.merge_group(heads), heads, self.require_statistics(), side)

    def require_statistics(self) -> LayerStatistics:
        """The statistics this merge was bound with."""
        if self.statistics is None:
            raise UserError("the error of a merge needs calibration statistics")
        return self.statistics

    def heads(self, heads: tuple[int, ...]) -> LayerWeights:
        """These heads and their queries alone, float64."""
        return selected(self.source, heads).to(torch.float64)

    def group_error(self, heads: tuple[int, ...], side: Side | None = None) -> float:
        """Expected squared change of the layer's attention output when ``heads`` (ascending) share.

        0 for a single head. Independent of the other groups: a set function. ``side``: when they share a key head
        alone, or a value head; errors of the two add up to that of both.
        """
        return self.group_errors([heads], side)[0]

    def group_errors(self, groups: Sequence[tuple[int, ...]], side: Side | None = None) -> list[float]:
        """``group_error`` of each of these; those not known yet are computed together, which is faster."""
        missing = [heads for heads in dict.fromkeys(groups) if len(heads) > 1 and (side, heads) not in self._errors]
        if missing:
            found = self._group_errors(missing, side)
            self._errors.update(zip([(side, heads) for heads in missing], found, strict=True))
        return [self._errors[side, heads] if len(heads) > 1 else 0.0 for heads in groups]

    def merge(self, layer: AnyLayer) -> LayerWeights:
        """The layer with one K and V per group; see ``with_groups``, and ``with_mean_norms`` of what follows."""
        merged = self.merged_alone(layer)
        if self.source.k_rows is None or self.statistics is None:
            return merged
        moment = self.statistics.moment(self.source.has_biases)
        return with_mean_norms(self.source, merged, layer, like(moment, self.source.k))

    def merged_alone(self, layer: AnyLayer) -> LayerWeights:
        """The same without what is made up for under a norm over the keys of all heads."""
        return with_groups(self.source, layer, self.merge_group)


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
