"""KL divergence to the parent on the search text."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from gqasearch.evaluation import Converter, ParentLogProbs, model_runner
from gqasearch.fitness import Fitness, FitnessContext, FloatArray, PreparedFitness
from gqasearch.grouping import Grouping
from gqasearch.merging import Need


class PreparedKL(PreparedFitness):
    """The parent's log-probabilities are computed once; one pass over the search blocks per candidate."""

    def __init__(self, parameters: KLToParent, context: FitnessContext) -> None:
        self.converter = Converter(context.parent, context.merge, context.load_statistics)
        blocks = context.load_search_blocks().first(parameters.tokens)
        self.reference = ParentLogProbs.compute(model_runner(context.parent.model), blocks)

    def evaluate(self, groupings: Sequence[Grouping]) -> FloatArray:
        return np.array([self.reference.mean_kl(self.converter.runner(grouping)) for grouping in groupings])


@dataclass(frozen=True)
class KLToParent(Fitness):
    """Mean KL(parent || converted) per token, in nats, on the search text.

    ``tokens``: how many tokens of that text every candidate is run on, the same for all.
    """

    name: ClassVar[str] = "kl"
    reference: ClassVar[str] = "https://arxiv.org/abs/2410.14649"
    needs: ClassVar[Need] = "forward"
    summary: ClassVar[str] = "KL divergence of the converted model to its parent on the search text"

    tokens: int = 4096

    def __post_init__(self) -> None:
        if self.tokens < 2:
            raise ValueError(f"tokens must be at least 2, got {self.tokens}")

    def prepare(self, context: FitnessContext) -> PreparedKL:
        return PreparedKL(self, context)
