"""The parent's distribution, kept so that every candidate of a search costs one pass, not two."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from gqasearch.calibration import Targets, TokenBlocks
from gqasearch.evaluation.runners import Runner

# Probability that counts as nothing, in float32.
NOTHING = 1e-9


@dataclass(frozen=True)
class KeptPredictions:
    """What is kept of the parent's P predictions of every block of a batch. ``index`` (B, P, K) int, or None when all
    tokens are kept in order; ``probability`` (B, P, K) of these tokens, ``rest`` (B, P) of all others together;
    ``negentropy`` (B, P): sum of p log p over the tokens kept and the rest.
    """

    index: Tensor | None
    probability: Tensor
    rest: Tensor
    negentropy: Tensor

    @classmethod
    def of(cls, logp: Tensor, index: Tensor | None = None) -> KeptPredictions:
        """From log-probabilities (B, P, K) of the tokens ``index``, of all tokens where it is None."""
        probability = logp.exp()
        rest = torch.zeros_like(probability[..., 0])
        if index is not None:
            rest = (1 - probability.double().sum(-1)).clamp_min(NOTHING).to(logp)
        negentropy = torch.einsum("btk,btk->bt", probability, logp) + torch.xlogy(rest, rest)
        return cls(index, probability, rest, negentropy)

    def kl(self, scores: Tensor) -> Tensor:
        """KL to the distributions of logits (B, P, V), nats, (B, P). Gradients flow to ``scores``."""
        total = scores.logsumexp(-1)
        if self.index is None:
            cross = torch.einsum("btv,btv->bt", self.probability, scores) - total
        else:
            found = scores.gather(-1, self.index.long()) - total[..., None]
            rest = (1 - found.double().exp().sum(-1)).clamp_min(NOTHING).log().to(found)
            cross = torch.einsum("btk,btk->bt", self.probability, found) + self.rest * rest
        return (self.negentropy - cross).clamp_min(0)


@dataclass(frozen=True)
class _Batch:
    """``kept``: of one batch; ``wanted`` (B, P): which are targets; ``targets``: where they stand in the logits."""

    kept: KeptPredictions
    wanted: Tensor
    targets: Targets


@dataclass(frozen=True)
class ParentLogProbs:
    """The parent's distribution of every target on ``blocks``, batch by batch.

    The whole vocabulary, and the KL exact; or the K most likely tokens of the parent and the sum of all that
    remains, and the KL a lower bound: what happens within the remainder is not seen.
    """

    blocks: TokenBlocks
    batch_blocks: int
    batches: tuple[_Batch, ...]

    @classmethod
    def compute(
        cls, parent: Runner, blocks: TokenBlocks, *, batch_blocks: int = 8, top: int = 256, exact_bytes: int = 2**28
    ) -> ParentLogProbs:
        """Run the parent once. The full distribution is kept where it fits ``exact_bytes``, else the top ``top``."""
        kept: list[_Batch] = []
        for (ids, mask), targets in zip(blocks.batches(batch_blocks), blocks.targets(batch_blocks), strict=True):
            logp = targets.of(parent(ids, mask)).log_softmax(-1)
            fits = blocks.ids.numel() * logp.shape[-1] * logp.element_size() <= exact_bytes
            kept.append(_keep(logp, None if fits or top >= logp.shape[-1] else top, targets))
        return cls(blocks, batch_blocks, tuple(kept))

    def targets(self, batch: int) -> int:
        """Tokens of one batch that are predicted."""
        return int(self.batches[batch].wanted.sum())

    def summed_kl(self, batch: int, logits: Tensor) -> float:
        """KL of the distributions that ``logits`` (B, T, V) of one batch stand for, summed over targets, nats."""
        return float(self.kl(batch, logits).double().sum())

    def kl(self, batch: int, logits: Tensor) -> Tensor:
        """KL of every prediction (B, P), nats; 0 where nothing is to be predicted. Gradients flow to ``logits``."""
        known = self.batches[batch]
        return known.kept.kl(known.targets.of(logits)) * known.wanted

    def mean_kl(self, candidate: Runner) -> float:
        """Mean KL over targets, nats per token."""
        batches = enumerate(self.blocks.batches(self.batch_blocks))
        total = sum(self.summed_kl(batch, candidate(ids, mask)) for batch, (ids, mask) in batches)
        return total / sum(map(self.targets, range(len(self.batches))))


def _keep(logp: Tensor, top: int | None, targets: Targets) -> _Batch:
    """Log-probabilities (B, P, V), all of them or the ``top`` largest."""
    index = None
    if top is not None:
        logp, places = logp.topk(top, dim=-1)
        index = places.to(torch.int32)
    return _Batch(KeptPredictions.of(logp, index), targets.wanted.to(logp.device), targets)
