"""Error of the last hidden states on the search text, for models without a head."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from gqasearch.evaluation import ParentLayers, climb, hidden_errors
from gqasearch.fitness import Fitness, FitnessContext, FloatArray, PreparedTextFitness
from gqasearch.grouping import Grouping
from gqasearch.merging import Need
from gqasearch.models import Objective
from gqasearch_fitness._text import CandidateLosses, batch_size, check_quick_refinement


class PreparedHiddenError(PreparedTextFitness):
    """The parent's hidden states are computed once; what candidates have in common is computed once, too."""

    def __init__(self, parameters: HiddenError, context: FitnessContext) -> None:
        blocks = context.load_search_blocks().first(parameters.tokens)
        wanted: dict[int, list[Tensor]] = {}
        for found in climb([ParentLayers(context.parent)], blocks, batch_size(blocks)):
            wanted.setdefault(found.batch, []).append(found.scores[0])
        states = {batch: torch.cat(parts) for batch, parts in wanted.items()}

        def summed_error(batch: int, found: Tensor, rows: slice) -> float:
            return float(hidden_errors(states[batch][rows], found).double().sum())

        self.losses = CandidateLosses(parameters, context, blocks, summed_error)
        self.batch_tokens = self.losses.batch_tokens

    def evaluate_batches(self, groupings: Sequence[Grouping], batches: Sequence[int]) -> FloatArray:
        return self.losses(groupings, batches)

    def evaluate_refined(self, groupings: Sequence[Grouping]) -> FloatArray:
        return self.losses.refined(groupings)

    def rest(self) -> None:
        self.losses.converter.rest()


@dataclass(frozen=True)
class HiddenError(Fitness):
    """Squared distance of the converted model's last hidden states to the parent's, over the parent's squared length.

    Averaged over the tokens of the search text. For encoders without a head it stands where ``kl`` stands for others;
    its parameters are as there.
    """

    name: ClassVar[str] = "hidden-error"
    reference: ClassVar[str] = "https://arxiv.org/abs/1910.01108"
    needs: ClassVar[Need] = "forward"
    summary: ClassVar[str] = "error of the last hidden states on the search text, of models without a head"
    takes_sides: ClassVar[bool] = True
    objectives: ClassVar[tuple[Objective, ...]] = ("hidden-states",)

    tokens: int = 16384
    refit_tokens: int = 4096
    descent_tokens: int = 16384
    descent_steps: int = 40

    def __post_init__(self) -> None:
        check_quick_refinement(self)

    def prepare(self, context: FitnessContext) -> PreparedHiddenError:
        return PreparedHiddenError(self, context)
