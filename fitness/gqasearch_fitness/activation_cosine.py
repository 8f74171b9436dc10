"""Cosine similarity of head activations (AsymGQA, arXiv 2406.14963), turned into a distance."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np
import torch
from torch import Tensor

from gqasearch.calibration import LayerStatistics
from gqasearch.fitness import Fitness, FitnessContext, FloatArray, PreparedPairwiseFitness, to_numpy
from gqasearch.merging import Need
from gqasearch.models import augmented

Form = Literal["mean-pattern", "best-match", "token-wise"]


def mean_pattern(_name: str, weight: Tensor, bias: Tensor | None, statistics: LayerStatistics) -> Tensor:
    """Cosine of the heads' mean activations over tokens, (H, H)."""
    mean = torch.cat([statistics.mean, statistics.mean.new_ones(1)])
    heads = torch.nn.functional.normalize(augmented(weight, bias, True) @ mean, dim=-1)
    return heads @ heads.T


def best_match(_name: str, weight: Tensor, bias: Tensor | None, statistics: LayerStatistics) -> Tensor:
    """For each sampled token of one head its best cosine with any token of the other, averaged, (H, H).

    The row-wise maximum is not symmetric; both directions are averaged.
    """
    sample = torch.cat([statistics.sample.double(), statistics.sample.new_ones(len(statistics.sample), 1).double()], 1)
    heads = torch.nn.functional.normalize(augmented(weight, bias, True) @ sample.T, dim=1)  # (H, d, S)
    rows = torch.stack([(head.T @ heads).amax(-1).mean(-1) for head in heads])
    return (rows + rows.T) / 2


def token_wise(name: str, _weight: Tensor, _bias: Tensor | None, statistics: LayerStatistics) -> Tensor:
    """Cosine at the same token, averaged over tokens, (H, H)."""
    return statistics.key_cosine if name == "key" else statistics.value_cosine


FORMS: dict[Form, Callable[[str, Tensor, Tensor | None, LayerStatistics], Tensor]] = {
    "mean-pattern": mean_pattern,
    "best-match": best_match,
    "token-wise": token_wise,
}


class PreparedActivationCosine(PreparedPairwiseFitness):
    """1 - cosine, keys and values weighted."""

    def __init__(self, parameters: ActivationCosine, context: FitnessContext) -> None:
        super().__init__()
        self.parameters = parameters
        self.context = context
        self.statistics = context.load_statistics()

    def compute_distances(self, layer: int) -> FloatArray:
        index, side = self.context.place(layer)
        form, weights = FORMS[self.parameters.form], self.context.layer(index).to(torch.float64)
        statistics = self.statistics.layer(index)
        key_weight = 0.0 if side == "values" else self.parameters.key_weight
        value_weight = 0.0 if side == "keys" else self.parameters.value_weight
        k, k_bias = weights.seen_keys
        keys = form("key", k.cpu(), None if k_bias is None else k_bias.cpu(), statistics)
        values = form("value", weights.v.cpu(), None if weights.v_bias is None else weights.v_bias.cpu(), statistics)
        similarity = key_weight * to_numpy(keys) + value_weight * to_numpy(values)
        distances = key_weight + value_weight - similarity
        np.fill_diagonal(distances, 0.0)
        return np.maximum((distances + distances.T) / 2, 0.0)


@dataclass(frozen=True)
class ActivationCosine(Fitness):
    """Mean within-group cosine distance of head activations.

    ``form``: "mean-pattern" compares the heads' mean activations, "best-match" each token with the most
    similar one of the other head (symmetrised row-wise maximum, on a sample), "token-wise" the same
    token. ``key_weight``, ``value_weight``: weights of the K and V distances, not negative.
    """

    name: ClassVar[str] = "activation-cosine"
    reference: ClassVar[str] = "https://arxiv.org/abs/2406.14963"
    needs: ClassVar[Need] = "statistics"
    summary: ClassVar[str] = "1 - cosine similarity of K and V activations (AsymGQA)"
    takes_sides: ClassVar[bool] = True

    form: Form = "token-wise"
    key_weight: float = 0.5
    value_weight: float = 0.5

    def __post_init__(self) -> None:
        if min(self.key_weight, self.value_weight) < 0 or self.key_weight + self.value_weight <= 0:
            given = f"{self.key_weight}, {self.value_weight}"
            raise ValueError(f"key_weight and value_weight must be at least 0 and not both 0, got {given}")

    def prepare(self, context: FitnessContext) -> PreparedActivationCosine:
        return PreparedActivationCosine(self, context)
