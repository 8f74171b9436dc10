"""Short healing: a few steps that are the same for every candidate of a search."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from gqasearch.calibration import TokenBlocks
from gqasearch.evaluation import ParentLayers, ParentLogProbs, WholeModel
from gqasearch.models import LayerWeights, Parent
from gqasearch.refining.grouped_parent import GroupedParent
from gqasearch.separate_grouping import AnyGrouping

BETAS = (0.9, 0.99)  # a short second memory: there are few steps


@dataclass(frozen=True)
class ShortHealing:
    """``steps`` steps of Adam on all attention weights, on the KL to the parent.

    ``learning_rate``: of each tensor relative to the standard deviation of its entries, so that one number suits
    models of any scale; it falls to 0 along a cosine. Batches are taken in turn, from the first again after the last.
    """

    parent: Parent
    reference: ParentLogProbs
    steps: int
    learning_rate: float

    @classmethod
    def on(
        cls, parent: Parent, blocks: TokenBlocks, *, steps: int, learning_rate: float, batch_blocks: int
    ) -> ShortHealing:
        """Runs the parent on as much of ``blocks`` as the steps will read."""
        length = max(1, int(blocks.mask.sum(1).max()))
        read = blocks.first(steps * batch_blocks * length)
        reference = ParentLogProbs.compute(ParentLayers(parent), read, batch_blocks=batch_blocks)
        return cls(parent, reference, steps, learning_rate)

    def heal(self, grouping: AnyGrouping, layers: Mapping[int, LayerWeights]) -> GroupedParent:
        """The model of ``layers`` (as in ``GroupedParent``) after the steps."""
        model = GroupedParent(self.parent, grouping, layers)
        groups = [
            {"params": [tensor], "lr": self.learning_rate * float(tensor.detach().std(correction=0))}
            for tensor in model.parameters()
        ]
        optimizer = torch.optim.Adam(groups, betas=BETAS)
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, self._decay)
        batches = list(self.reference.blocks.batches(self.reference.batch_blocks))
        for step in range(self.steps):
            self._step(model, optimizer, step % len(batches), batches)
            schedule.step()
        return model

    def _step(
        self,
        model: GroupedParent,
        optimizer: torch.optim.Optimizer,
        batch: int,
        batches: Sequence[tuple[Tensor, Tensor]],
    ) -> None:
        optimizer.zero_grad()
        with torch.enable_grad():
            targets = self.reference.targets[batch]
            scores = targets.chosen(_logits(model, *batches[batch]))
            loss = self.reference.kl(batch, scores).sum() / targets.count
            loss.backward()
        optimizer.step()

    def _decay(self, step: int) -> float:
        return 0.5 * (1 + math.cos(math.pi * step / self.steps))


def healed_runner(model: GroupedParent) -> WholeModel:
    """Logits of a healed model."""

    def run(ids: Tensor, mask: Tensor) -> Tensor:
        with torch.no_grad():
            return _logits(model, ids, mask)

    return WholeModel(run)


def _logits(model: GroupedParent, ids: Tensor, mask: Tensor) -> Tensor:
    device = model.parent.device
    logits: Tensor = model(ids.to(device), mask.long().to(device)).logits
    return logits.float()
