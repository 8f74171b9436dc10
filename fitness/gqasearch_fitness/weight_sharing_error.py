"""Weight-sharing error (QCQA, arXiv 2406.10247, section 3): what averaging does to the weights."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch

from gqasearch.fitness import Fitness, FitnessContext, FloatArray, PreparedPairwiseFitness, to_numpy
from gqasearch.merging import Need


class PreparedWeightSharingError(PreparedPairwiseFitness):
    """Squared distances between the heads' K and V weights."""

    def __init__(self, context: FitnessContext) -> None:
        super().__init__()
        self.context = context

    def compute_distances(self, layer: int) -> FloatArray:
        index, side = self.context.place(layer)
        weights = self.context.layer(index)
        keys, _ = weights.seen_keys
        parts = {None: (keys, weights.v), "keys": (keys,), "values": (weights.v,)}[side]
        heads = torch.cat([part.flatten(1) for part in parts], dim=1).double()
        # Differences, not the expanded square: no cancellation between heads that are nearly equal.
        return to_numpy(torch.stack([(heads - head).square().sum(1) for head in heads]))


@dataclass(frozen=True)
class WeightSharingError(Fitness):
    """Sum over groups of the squared deviation of each head's K and V weights from the group's mean.

    Depends on the partition alone, never on how groups are numbered.
    """

    name: ClassVar[str] = "weight-sharing-error"
    reference: ClassVar[str] = "https://arxiv.org/abs/2406.10247"
    needs: ClassVar[Need] = "weights"
    summary: ClassVar[str] = "squared distance of K and V weights to their group's mean (QCQA)"
    takes_sides: ClassVar[bool] = True

    def prepare(self, context: FitnessContext) -> PreparedWeightSharingError:
        return PreparedWeightSharingError(context)
