"""Short-calibration perplexity: run the converted model on the search text."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from torch import Tensor

from gqasearch.fitness import Fitness, FitnessContext, FloatArray, PreparedTextFitness
from gqasearch.grouping import Grouping
from gqasearch.merging import Need
from gqasearch.models import TOKENS, Objective
from gqasearch_fitness._text import CandidateLosses, batch_size, check_quick_refinement


class PreparedPerplexity(PreparedTextFitness):
    """What candidates have in common is computed once."""

    def __init__(self, parameters: Perplexity, context: FitnessContext) -> None:
        blocks = context.load_search_blocks().first(parameters.tokens)
        batches = list(blocks.targets(batch_size(blocks)))

        def summed_nll(batch: int, scores: Tensor, rows: slice) -> float:
            return batches[batch].summed_nll(scores, rows)

        self.losses = CandidateLosses(parameters, context, blocks, summed_nll)
        self.batch_tokens = self.losses.batch_tokens

    def evaluate_batches(self, groupings: Sequence[Grouping], batches: Sequence[int]) -> FloatArray:
        return np.exp(self.losses(groupings, batches))

    def evaluate_refined(self, groupings: Sequence[Grouping]) -> FloatArray:
        return np.exp(self.losses.refined(groupings))

    def rest(self) -> None:
        self.losses.converter.rest()


@dataclass(frozen=True)
class Perplexity(Fitness):
    """Perplexity of the whole converted model on the search text; of an encoder, pseudo-perplexity at masked tokens.

    Its parameters are as in ``kl``.
    """

    name: ClassVar[str] = "perplexity"
    reference: ClassVar[str] = "https://arxiv.org/abs/2406.14963"
    needs: ClassVar[Need] = "forward"
    summary: ClassVar[str] = "perplexity of the converted model on the search text"
    takes_sides: ClassVar[bool] = True
    objectives: ClassVar[tuple[Objective, ...]] = TOKENS

    tokens: int = 4096
    refit_tokens: int = 4096
    descent_tokens: int = 16384
    descent_steps: int = 40

    def __post_init__(self) -> None:
        check_quick_refinement(self)

    def prepare(self, context: FitnessContext) -> PreparedPerplexity:
        return PreparedPerplexity(self, context)
