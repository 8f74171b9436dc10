"""Perplexity, and KL to the parent, of any number of candidates in one pass over the text.

Convention: blocks of a fixed length, each from an empty context; every token but the first of a block
is a target; padding never is. Perplexity is exp of the mean negative log-likelihood per target. KL is
sum_v p log(p / q) with p the parent's and q the candidate's distribution, in nats, averaged over targets.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from gqasearch.calibration import TokenBlocks, no_progress
from gqasearch.evaluation.runners import Runner

CONVENTION = "Blocks from an empty context; every token but a block's first is a target."


@dataclass(frozen=True)
class Quality:
    """Means over targets. ``kl`` is 0 for the parent; ``kl_blocks`` holds one mean per block, for paired tests."""

    perplexity: float
    nll: float
    kl: float
    bits_per_byte: float
    targets: int
    kl_blocks: tuple[float, ...]


@dataclass
class _Sums:
    nll: float = 0.0
    kl: float = 0.0

    def quality(self, targets: int, bytes_per_token: float, kl_blocks: list[float]) -> Quality:
        nll = self.nll / targets
        perplexity = math.exp(nll) if nll < 700 else math.inf
        bits = nll / math.log(2) / bytes_per_token
        return Quality(perplexity, nll, self.kl / targets, bits, targets, tuple(kl_blocks))


def evaluate_quality(
    parent: Runner,
    candidates: Mapping[str, Runner],
    blocks: TokenBlocks,
    *,
    batch_blocks: int = 8,
    progress: Callable[[int, int], None] = no_progress,
) -> tuple[Quality, dict[str, Quality]]:
    """Quality of the parent and of every candidate. The parent runs once per batch for all of them."""
    names = list(candidates)
    own, sums = _Sums(), {name: _Sums() for name in names}
    per_block: dict[str, list[float]] = {name: [] for name in names}
    targets, done = 0, 0
    for ids, mask in blocks.batches(batch_blocks):
        wanted = mask[:, 1:]
        reference = parent(ids, mask)[:, :-1].log_softmax(-1)
        own.nll += float(_nll(reference, ids)[wanted].double().sum())
        for name in names:
            logp = candidates[name](ids, mask)[:, :-1].log_softmax(-1)
            kl = kl_per_token(reference, logp) * wanted.to(reference.device)
            sums[name].nll += float(_nll(logp, ids)[wanted].double().sum())
            sums[name].kl += float(kl.double().sum())
            per_block[name] += (kl.double().sum(1).cpu() / wanted.sum(1).clamp_min(1)).tolist()
        targets += int(wanted.sum())
        done += len(ids)
        progress(done, len(blocks.ids))
    size = blocks.bytes_per_token
    return own.quality(targets, size, [0.0] * len(blocks.ids)), {
        name: sums[name].quality(targets, size, per_block[name]) for name in names
    }


def kl_per_token(reference: Tensor, candidate: Tensor) -> Tensor:
    """KL of ``candidate`` to ``reference`` for log-probabilities (..., V) -> (...), nats, at least 0."""
    return torch.nn.functional.kl_div(candidate, reference, reduction="none", log_target=True).sum(-1).clamp_min(0)


def _nll(logp: Tensor, ids: Tensor) -> Tensor:
    """Negative log-likelihood of the next token, (B, T - 1), on the CPU."""
    following = ids[:, 1:, None].to(logp.device)
    return -logp.gather(-1, following)[..., 0].cpu()
