"""KL divergence to the parent on the search text."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from gqasearch.evaluation import ParentLayers, ParentLogProbs
from gqasearch.fitness import Fitness, FitnessContext, FloatArray, PreparedTextFitness
from gqasearch.grouping import Grouping
from gqasearch.merging import Need
from gqasearch.models import TOKENS, Objective
from gqasearch_fitness._text import CandidateLosses, batch_size, check_quick_refinement


class PreparedKL(PreparedTextFitness):
    """The parent's distribution is computed once; what candidates have in common is computed once, too."""

    def __init__(self, parameters: KLToParent, context: FitnessContext) -> None:
        blocks = context.load_search_blocks().first(parameters.tokens)
        reference = ParentLogProbs.compute(ParentLayers(context.parent), blocks, batch_blocks=batch_size(blocks))
        self.losses = CandidateLosses(parameters, context, blocks, reference.summed_kl)
        self.batch_tokens = self.losses.batch_tokens

    def evaluate_batches(self, groupings: Sequence[Grouping], batches: Sequence[int]) -> FloatArray:
        return self.losses(groupings, batches)

    def evaluate_refined(self, groupings: Sequence[Grouping]) -> FloatArray:
        return self.losses.refined(groupings)

    def rest(self) -> None:
        self.losses.converter.rest()


@dataclass(frozen=True)
class KLToParent(Fitness):
    """Mean KL(parent || converted) per token, in nats, on the search text.

    ``tokens``: how many tokens of that text candidates are run on. Where the converted model will be refined, its
    layers are refined quickly first, each by itself and once for all candidates that have it, so that candidates
    are ranked nearly as after the refinement: W_o on ``refit_tokens`` tokens of the calibration text (0 for not), and
    where ``descent`` will follow and a candidate is run on the whole text, by ``descent_steps`` steps of that on
    ``descent_tokens`` tokens (0 for not).
    """

    name: ClassVar[str] = "kl"
    reference: ClassVar[str] = "https://arxiv.org/abs/2410.14649"
    needs: ClassVar[Need] = "forward"
    summary: ClassVar[str] = "KL divergence of the converted model to its parent on the search text"
    takes_sides: ClassVar[bool] = True
    objectives: ClassVar[tuple[Objective, ...]] = TOKENS

    tokens: int = 16384
    refit_tokens: int = 4096
    descent_tokens: int = 16384
    descent_steps: int = 40

    def __post_init__(self) -> None:
        check_quick_refinement(self)

    def prepare(self, context: FitnessContext) -> PreparedKL:
        return PreparedKL(self, context)
