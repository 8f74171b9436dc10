"""The parent's log-probabilities, kept so that every candidate of a search costs one pass, not two."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from gqasearch.calibration import TokenBlocks
from gqasearch.evaluation.quality import kl_per_token
from gqasearch.evaluation.runners import Runner


@dataclass(frozen=True)
class ParentLogProbs:
    """Per batch of ``blocks``: token ids (B, T-1, K) and log-probabilities (B, T-1, K or K + 1).

    K is the whole vocabulary, and the KL exact; or the K most likely tokens of the parent, with the log
    of all that remains in a last column, and the KL a lower bound: what happens within the remainder
    is not seen.
    """

    blocks: TokenBlocks
    batch_blocks: int
    kept: tuple[tuple[Tensor, Tensor], ...]

    @classmethod
    def compute(
        cls, parent: Runner, blocks: TokenBlocks, *, batch_blocks: int = 8, top: int = 256, exact_bytes: int = 2**28
    ) -> ParentLogProbs:
        """Run the parent once. The full distribution is kept where it fits ``exact_bytes``, else the top ``top``."""
        kept: list[tuple[Tensor, Tensor]] = []
        for ids, mask in blocks.batches(batch_blocks):
            logp = parent(ids, mask)[:, :-1].log_softmax(-1)
            vocabulary = logp.shape[-1]
            count = vocabulary if blocks.ids.numel() * vocabulary * 4 <= exact_bytes else min(top, vocabulary)
            values, index = logp.topk(count, dim=-1)
            kept.append((index.to(torch.int32), with_remainder(values, vocabulary)))
        return cls(blocks, batch_blocks, tuple(kept))

    def mean_kl(self, candidate: Runner) -> float:
        """Mean KL over targets, nats per token."""
        total, targets = 0.0, 0
        for (ids, mask), (index, reference) in zip(self.blocks.batches(self.batch_blocks), self.kept, strict=True):
            full = candidate(ids, mask)[:, :-1].log_softmax(-1)
            logp = with_remainder(full.gather(-1, index.long()), full.shape[-1])
            wanted = mask[:, 1:]
            total += float((kl_per_token(reference, logp) * wanted.to(logp.device)).double().sum())
            targets += int(wanted.sum())
        return total / targets


def with_remainder(logp: Tensor, vocabulary: int) -> Tensor:
    """Append log(1 - sum exp(logp)), floored where nothing remains; a full distribution stays as it is."""
    if logp.shape[-1] == vocabulary:
        return logp
    rest = (1 - logp.double().exp().sum(-1, keepdim=True)).clamp_min(1e-9)
    return torch.cat([logp, rest.log().to(logp.dtype)], dim=-1)
