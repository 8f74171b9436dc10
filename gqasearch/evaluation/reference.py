"""The parent's distribution, kept so that every candidate of a search costs one pass, not two."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from gqasearch.calibration import Targets, TokenBlocks
from gqasearch.evaluation.climb import climb, mean_loss
from gqasearch.evaluation.runners import LayerStack

# Probability that counts as nothing, in float32.
NOTHING = 1e-9


@dataclass(frozen=True)
class KeptPredictions:
    """What is kept of the parent's predictions, of any shape (...). ``index`` (..., K) int, or None when all tokens are
    kept in order; ``probability`` (..., K) of these tokens, ``rest`` (...) of all others together; ``negentropy``
    (...): sum of p log p over the tokens kept and the rest.
    """

    index: Tensor | None
    probability: Tensor
    rest: Tensor
    negentropy: Tensor

    @classmethod
    def of(cls, logp: Tensor, index: Tensor | None = None) -> KeptPredictions:
        """From log-probabilities (..., K) of the tokens ``index``, of all tokens where it is None."""
        probability = logp.exp()
        rest = torch.zeros_like(probability[..., 0])
        if index is not None:
            rest = (1 - probability.double().sum(-1)).clamp_min(NOTHING).to(logp)
        negentropy = torch.einsum("...k,...k->...", probability, logp) + torch.xlogy(rest, rest)
        return cls(index, probability, rest, negentropy)

    def rows(self, rows: slice) -> KeptPredictions:
        """Some of them, along the first dimension."""
        index = None if self.index is None else self.index[rows]
        return KeptPredictions(index, self.probability[rows], self.rest[rows], self.negentropy[rows])

    def kl(self, scores: Tensor) -> Tensor:
        """KL to the distributions of logits (..., V), nats, (...). Gradients flow to ``scores``."""
        total = scores.logsumexp(-1)
        if self.index is None:
            cross = torch.einsum("...v,...v->...", self.probability, scores) - total
        else:
            found = scores.gather(-1, self.index.long()) - total[..., None]
            rest = (1 - found.double().exp().sum(-1)).clamp_min(NOTHING).log().to(found)
            cross = torch.einsum("...k,...k->...", self.probability, found) + self.rest * rest
        return (self.negentropy - cross).clamp_min(0)


@dataclass(frozen=True)
class ParentLogProbs:
    """The parent's distribution of every target on ``blocks``: of every batch its ``targets`` and what is ``kept``.

    The whole vocabulary, and the KL exact; or the K most likely tokens of the parent and the sum of all that
    remains, and the KL a lower bound: what happens within the remainder is not seen.
    """

    blocks: TokenBlocks
    batch_blocks: int
    targets: tuple[Targets, ...]
    kept: tuple[KeptPredictions, ...]

    @classmethod
    def compute(
        cls, parent: LayerStack, blocks: TokenBlocks, *, batch_blocks: int = 8, top: int = 256, exact_bytes: int = 2**28
    ) -> ParentLogProbs:
        """Run the parent once. The full distribution is kept where it fits ``exact_bytes``, else the top ``top``."""
        targets = tuple(blocks.targets(batch_blocks))
        parts: list[list[KeptPredictions]] = [[] for _ in targets]
        for found in climb([parent], blocks, batch_blocks):
            logp = found.scores[0].log_softmax(-1)
            fits = blocks.ids.numel() * logp.shape[-1] * logp.element_size() <= exact_bytes
            parts[found.batch].append(_keep(logp, None if fits or top >= logp.shape[-1] else top))
        return cls(blocks, batch_blocks, targets, tuple(map(_joined, parts)))

    @property
    def count(self) -> int:
        """Tokens that are predicted."""
        return sum(targets.count for targets in self.targets)

    def kl(self, batch: int, scores: Tensor, rows: slice = slice(None)) -> Tensor:
        """KL of these targets of a batch under their logits (n, V), nats, (n,). Gradients flow to ``scores``."""
        return self.kept[batch].rows(rows).kl(scores)

    def summed_kl(self, batch: int, scores: Tensor, rows: slice = slice(None)) -> float:
        """The same, summed."""
        return float(self.kl(batch, scores, rows).double().sum())

    def mean_kl(self, candidate: LayerStack) -> float:
        """Mean KL over targets, nats per token."""
        return mean_loss(candidate, self.blocks, self.batch_blocks, self.summed_kl)


def _keep(logp: Tensor, top: int | None) -> KeptPredictions:
    """Log-probabilities (n, V), all of them or the ``top`` largest."""
    if top is None:
        return KeptPredictions.of(logp)
    logp, places = logp.topk(top, dim=-1)
    return KeptPredictions.of(logp, places.to(torch.int32))


def _joined(parts: list[KeptPredictions]) -> KeptPredictions:
    """Of one batch."""
    indices = [part.index for part in parts if part.index is not None]
    return KeptPredictions(
        torch.cat(indices) if indices else None,
        torch.cat([part.probability for part in parts]),
        torch.cat([part.rest for part in parts]),
        torch.cat([part.negentropy for part in parts]),
    )
