"""KL divergence to the parent on the search text."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from gqasearch.evaluation import ParentLogProbs, model_runner
from gqasearch.fitness import Fitness, FitnessContext, FloatArray, PreparedTextFitness
from gqasearch.grouping import Grouping
from gqasearch.merging import Need
from gqasearch_fitness._text import batch_size, candidate_losses, check_tokens


class PreparedKL(PreparedTextFitness):
    """The parent's distribution is computed once; what candidates have in common is computed once, too."""

    def __init__(self, parameters: KLToParent, context: FitnessContext) -> None:
        blocks = context.load_search_blocks().first(parameters.tokens)
        runner = model_runner(context.parent.model)
        reference = ParentLogProbs.compute(runner, blocks, batch_blocks=batch_size(blocks))
        self.losses = candidate_losses(context, blocks, parameters.refit_tokens, reference.summed_kl)
        self.batch_tokens = self.losses.batch_tokens

    def evaluate_batches(self, groupings: Sequence[Grouping], batches: Sequence[int]) -> FloatArray:
        return self.losses(groupings, batches)


@dataclass(frozen=True)
class KLToParent(Fitness):
    """Mean KL(parent || converted) per token, in nats, on the search text.

    ``tokens``: how many tokens of that text candidates are run on. ``refit_tokens``: where the converted model
    will be refined, every layer's W_o is first refitted by itself on so many tokens of the calibration text, 0 for
    not: a candidate is then ranked nearly as after the refinement.
    """

    name: ClassVar[str] = "kl"
    reference: ClassVar[str] = "https://arxiv.org/abs/2410.14649"
    needs: ClassVar[Need] = "forward"
    summary: ClassVar[str] = "KL divergence of the converted model to its parent on the search text"

    tokens: int = 16384
    refit_tokens: int = 4096

    def __post_init__(self) -> None:
        check_tokens(self.tokens, self.refit_tokens)

    def prepare(self, context: FitnessContext) -> PreparedKL:
        return PreparedKL(self, context)
