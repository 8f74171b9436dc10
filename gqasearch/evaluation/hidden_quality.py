"""How far the hidden states of a model without a head are from its parent's."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Unpack

import torch
from torch import Tensor

from gqasearch.calibration import TokenBlocks
from gqasearch.evaluation.runners import LayerStack
from gqasearch.evaluation.sums import How, Sums, summed

HIDDEN_CONVENTION = (
    "Blocks between CLS and SEP, no token masked; all tokens are targets. The model has no head and predicts nothing: "
    "the hidden-state error is the squared distance of a token's last hidden state to the parent's over the parent's "
    "squared length, averaged over tokens. There is no KV cache: KV bytes are those of the keys and values that a "
    "forward pass computes, per token of its input."
)


@dataclass(frozen=True)
class HiddenQuality:
    """Means over tokens. ``hidden_error`` is 0 for the parent; ``hidden_error_blocks`` holds one mean per block."""

    hidden_error: float
    targets: int
    hidden_error_blocks: tuple[float, ...]

    def figures(self) -> dict[str, float]:
        return {"hidden_error": self.hidden_error}

    def by_block(self) -> tuple[str, tuple[float, ...]]:
        return "hidden_error", self.hidden_error_blocks


class HiddenSums(Sums[HiddenQuality]):
    """Of the errors of hidden states."""

    @staticmethod
    def read(scores: Tensor) -> Tensor:
        return scores

    def add(self, reference: Tensor, found: Tensor, tokens: Tensor, blocks: Tensor) -> None:
        self.distance.index_add_(0, blocks, hidden_errors(reference, found).double().cpu())

    def record(self) -> dict[str, Any]:
        return {"hidden_error": self.distance.tolist()}

    def restore(self, record: Mapping[str, Any]) -> None:
        self.distance = torch.tensor(record["hidden_error"], dtype=torch.float64)

    def quality(self, targets: Tensor, bytes_per_token: float) -> HiddenQuality:
        mean, per_block = self._mean_distance(targets)
        return HiddenQuality(mean, int(targets.sum()), per_block)


def evaluate_hidden(
    parent: LayerStack, candidates: Mapping[str, LayerStack], blocks: TokenBlocks, **how: Unpack[How]
) -> tuple[HiddenQuality, dict[str, HiddenQuality]]:
    """Quality of the parent and of every candidate, models without a head; see ``summed``."""
    return summed(HiddenSums, parent, candidates, blocks, **how)


def hidden_errors(reference: Tensor, found: Tensor) -> Tensor:
    """||found - reference||^2 / ||reference||^2 of hidden states (..., D), (...)."""
    return (found - reference).square().sum(-1) / reference.square().sum(-1)
