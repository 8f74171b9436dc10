"""Short-calibration perplexity: run the converted model on the search text."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from gqasearch.evaluation import Converter, mean_nll
from gqasearch.fitness import Fitness, FitnessContext, FloatArray, PreparedFitness
from gqasearch.grouping import Grouping
from gqasearch.merging import Need


class PreparedPerplexity(PreparedFitness):
    """One pass over the search blocks per candidate."""

    def __init__(self, parameters: Perplexity, context: FitnessContext) -> None:
        self.converter = Converter(context.parent, context.merge, context.load_statistics)
        self.blocks = context.load_search_blocks().first(parameters.tokens)

    def evaluate(self, groupings: Sequence[Grouping]) -> FloatArray:
        return np.array([np.exp(mean_nll(self.converter.runner(g), self.blocks)) for g in groupings])


@dataclass(frozen=True)
class Perplexity(Fitness):
    """Perplexity of the whole converted model on the search text.

    ``tokens``: how many tokens of that text every candidate is run on, the same for all.
    """

    name: ClassVar[str] = "perplexity"
    reference: ClassVar[str] = "https://arxiv.org/abs/2406.14963"
    needs: ClassVar[Need] = "forward"
    summary: ClassVar[str] = "perplexity of the converted model on the search text"

    tokens: int = 4096

    def __post_init__(self) -> None:
        if self.tokens < 2:
            raise ValueError(f"tokens must be at least 2, got {self.tokens}")

    def prepare(self, context: FitnessContext) -> PreparedPerplexity:
        return PreparedPerplexity(self, context)
