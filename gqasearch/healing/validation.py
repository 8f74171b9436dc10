"""Where training stands: KL to the parent and perplexity on text that is never trained on."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from gqasearch.calibration import TokenBlocks
from gqasearch.evaluation import ParentLogProbs, Runner, WholeModel, model_runner


@dataclass(frozen=True)
class Measured:
    """Means over the validation text, nats per target and its exponential."""

    kl: float
    perplexity: float


@dataclass
class Validation:
    """The parent's distribution is computed once and kept, all of it or where that is large its top (a lower bound)."""

    parent: Runner
    blocks: TokenBlocks
    batch_blocks: int = 8

    @cached_property
    def reference(self) -> ParentLogProbs:
        """The parent's distribution; the parent is not run again after."""
        return ParentLogProbs.compute(WholeModel(self.parent), self.blocks, batch_blocks=self.batch_blocks)

    def measure(self, model: Any) -> Measured:
        """``model`` in evaluation mode, then in the mode that it was in."""
        training = model.training
        model.eval()
        try:
            return self._measure(model_runner(model))
        finally:
            model.train(training)

    def _measure(self, run: Runner) -> Measured:
        kl = nll = 0.0
        count = 0
        batches, targets = self.blocks.batches(self.batch_blocks), self.blocks.targets(self.batch_blocks)
        for index, ((ids, mask), wanted) in enumerate(zip(batches, targets, strict=True)):
            scores = wanted.chosen(run(ids, mask))
            kl += self.reference.summed_kl(index, scores)
            nll += wanted.summed_nll(scores)
            count += wanted.count
        mean = nll / count
        return Measured(kl / count, math.exp(mean) if mean < 700 else math.inf)
