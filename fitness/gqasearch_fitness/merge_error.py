"""The error of the merge that will be used: ours (design, section 3.3)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from gqasearch.calibration import Statistics
from gqasearch.evaluation import Converter
from gqasearch.fitness import Fitness, FitnessContext, PreparedGroupFitness
from gqasearch.merging import Need


class PreparedMergeError(PreparedGroupFitness):
    """Merge errors, relative to each layer's residual stream."""

    def __init__(self, context: FitnessContext) -> None:
        super().__init__()
        self.statistics: Statistics = context.load_statistics()
        self.converter = Converter(context.parent, context.merge, lambda: self.statistics, measure=True)
        self._scales: dict[int, float] = {}

    def compute_group_error(self, layer: int, heads: tuple[int, ...]) -> float:
        return self.compute_group_errors(layer, [heads])[0]

    def compute_group_errors(self, layer: int, groups: Sequence[tuple[int, ...]]) -> list[float]:
        if layer not in self._scales:
            self._scales[layer] = 1.0 / float(self.statistics.layer(layer).residual_energy)
        errors = self.converter.layer_merge(layer).group_errors(groups)
        return [error * self._scales[layer] for error in errors]


@dataclass(frozen=True)
class MergeError(Fitness):
    """Expected squared change of each layer's attention output under the chosen merge.

    A fraction of the energy of the residual stream that it is added to, summed over groups and layers.
    With the optimal merge it is the sum of discarded eigenvalues: no model is run.
    """

    name: ClassVar[str] = "merge-error"
    reference: ClassVar[str] = "https://doi.org/10.1007/BF02288367"
    needs: ClassVar[Need] = "statistics"
    summary: ClassVar[str] = "expected squared error of the attention output under the merge in use (ours)"

    def prepare(self, context: FitnessContext) -> PreparedMergeError:
        return PreparedMergeError(context)
