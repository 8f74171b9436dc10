"""KL divergence to the parent on the search text, after a few steps of healing."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np

from gqasearch.evaluation import ParentLayers, ParentLogProbs
from gqasearch.fitness import Fitness, FitnessContext, FloatArray, PreparedTextFitness
from gqasearch.grouping import Grouping
from gqasearch.healing import ShortHealing, healed_runner
from gqasearch.merging import Need
from gqasearch.models import TOKENS, LayerWeights, Objective
from gqasearch.separate_grouping import AnyGrouping, changed_layers
from gqasearch_fitness._text import CandidateLosses, batch_size, candidate_state, check_quick_refinement, kept_loss


class PreparedHealedKL(PreparedTextFitness):
    """On a part of the text as ``kl``; on all of it every candidate is healed first. What was found is kept."""

    def __init__(self, parameters: HealedKL, context: FitnessContext) -> None:
        context = replace(context, kv=None)
        blocks = context.load_search_blocks().first(parameters.tokens)
        self.reference = ParentLogProbs.compute(ParentLayers(context.parent), blocks, batch_blocks=batch_size(blocks))
        self.losses = CandidateLosses(parameters, context, blocks, self.reference.summed_kl)
        self.batch_tokens = self.losses.batch_tokens
        # From the end: the quick refinement has read the beginning.
        text = context.load_calibration_blocks().last(parameters.steps * parameters.step_tokens)
        self.healing = ShortHealing.on(
            context.parent,
            text,
            steps=parameters.steps,
            learning_rate=parameters.learning_rate,
            batch_blocks=max(1, parameters.step_tokens // text.ids.shape[1]),
        )
        self.context = context
        self._state = candidate_state(context, "healed")
        self._values: dict[AnyGrouping, float] = {}

    def evaluate_batches(self, groupings: Sequence[Grouping], batches: Sequence[int]) -> FloatArray:
        if len(set(batches)) < len(self.batch_tokens):
            return self.losses(groupings, batches)
        return np.array([self._kept(self.context.grouping_of(one)) for one in groupings], dtype=np.float64)

    def evaluate_refined(self, groupings: Sequence[Grouping]) -> FloatArray:
        """After the context's refinement itself, as a run does it, and then the steps."""
        return self.losses.refined(groupings, self._healed)

    def _kept(self, grouping: AnyGrouping) -> float:
        if grouping not in self._values:
            self._values[grouping] = kept_loss(self._state, grouping, lambda: self._quickly_healed(grouping))
        return self._values[grouping]

    def _quickly_healed(self, grouping: AnyGrouping) -> float:
        changed = changed_layers(grouping)
        layers = {index: self.losses.converted_layer(index, grouping.layers[index]) for index in changed}
        return self._healed(grouping, layers)

    def _healed(self, grouping: AnyGrouping, layers: Mapping[int, LayerWeights]) -> float:
        if not layers:  # the parent: there is nothing to heal, and Adam would make steps of rounding errors
            return 0.0
        return self.reference.mean_kl(healed_runner(self.healing.heal(grouping, layers)))

    def rest(self) -> None:
        self.losses.converter.rest()


@dataclass(frozen=True)
class HealedKL(Fitness):
    """Mean KL(parent || converted) per token, in nats, on the search text, after a short healing.

    Where a candidate is run on the whole text, it first gets ``steps`` steps of Adam on all attention weights, on the
    KL to the parent (``ShortHealing``, with ``learning_rate``), each on ``step_tokens`` tokens of the calibration text:
    the same for all candidates. On a part of the text it is not healed, and the value is that of ``kl``; so in
    ``staged`` search the last stage alone pays for healing. Caches are never rounded here. Other parameters are as in
    ``kl``.
    """

    name: ClassVar[str] = "healed-kl"
    reference: ClassVar[str] = "https://arxiv.org/abs/2305.13245"
    needs: ClassVar[Need] = "forward"
    summary: ClassVar[str] = "kl after a few steps of healing on the calibration text"
    takes_sides: ClassVar[bool] = True
    objectives: ClassVar[tuple[Objective, ...]] = TOKENS

    tokens: int = 16384
    refit_tokens: int = 4096
    descent_tokens: int = 16384
    descent_steps: int = 40
    steps: int = 10
    step_tokens: int = 1024
    learning_rate: float = 0.002

    def __post_init__(self) -> None:
        check_quick_refinement(self)
        if self.steps < 1:
            raise ValueError(f"steps must be at least 1, got {self.steps}; kl ranks without healing")
        if self.step_tokens < 2:
            raise ValueError(f"step_tokens must be at least 2, got {self.step_tokens}")
        if not 0 < self.learning_rate < math.inf:
            raise ValueError(f"learning_rate must be above 0, got {self.learning_rate}")

    def prepare(self, context: FitnessContext) -> PreparedHealedKL:
        return PreparedHealedKL(self, context)
