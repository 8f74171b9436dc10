"""The error of the merge that will be used: ours (design, section 3.3)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from gqasearch.evaluation import Converter
from gqasearch.fitness import Fitness, FitnessContext, PreparedGroupFitness
from gqasearch.merging import Need


class PreparedMergeError(PreparedGroupFitness):
    """Merge errors, relative to each layer's residual stream."""

    def __init__(self, context: FitnessContext) -> None:
        super().__init__()
        statistics = context.load_statistics()
        self.context = context
        self.converter = Converter(context.parent, context.merge, lambda: statistics, measure=True)

    def compute_group_error(self, layer: int, heads: tuple[int, ...]) -> float:
        return self.compute_group_errors(layer, [heads])[0]

    def compute_group_errors(self, layer: int, groups: Sequence[tuple[int, ...]]) -> list[float]:
        index, side = self.context.place(layer)
        bound = self.converter.layer_merge(index)
        scale = 1.0 / float(bound.require_statistics().residual_energy)
        return [error * scale for error in bound.group_errors(groups, side)]

    def rest(self) -> None:
        self.converter.rest()


@dataclass(frozen=True)
class MergeError(Fitness):
    """Expected squared change of each layer's attention output under the chosen merge.

    A fraction of the energy of the residual stream that it is added to, summed over groups and layers.
    With the optimal merge it is what its fits leave over, and no model is run. Keys with RoPE are fitted by an
    alternation that a search cuts short and the merge carries on: the error told, here and in grouping.json, is never
    less than that of the merge in use, on the embedded model 1% more on average. Other merges' errors are those of
    their weights.
    """

    name: ClassVar[str] = "merge-error"
    reference: ClassVar[str] = "https://doi.org/10.1007/BF02288367"
    needs: ClassVar[Need] = "statistics"
    summary: ClassVar[str] = "expected squared error of the attention output under the merge in use (ours)"
    takes_sides: ClassVar[bool] = True

    def prepare(self, context: FitnessContext) -> PreparedMergeError:
        return PreparedMergeError(context)
