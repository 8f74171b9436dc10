"""Perplexity, and KL to the parent, of any number of candidates in one pass over the text.

Convention: blocks of a fixed length, each from an empty context; every token but the first of a block
is a target; padding never is. Perplexity is exp of the mean negative log-likelihood per target. KL is
sum_v p log(p / q) with p the parent's and q the candidate's distribution, in nats, averaged over targets.
In an encoder's text some tokens are masked (``calibration.masking``) and these are the targets: perplexity is then
pseudo-perplexity (arXiv 1910.14659), of about a seventh of the tokens at once instead of one after another.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from gqasearch.calibration import TokenBlocks, no_progress
from gqasearch.calibration.masking import SHARE
from gqasearch.evaluation.runners import Runner

CONVENTION = "Blocks from an empty context; every token but a block's first is a target."
MASKED_CONVENTION = (
    f"Blocks with {SHARE:.0%} of their tokens masked, always the same ones; these are the targets, each predicted from "
    "the whole block. Perplexity is pseudo-perplexity: exp of the mean loss at masked tokens. There is no KV cache: "
    "KV bytes are those of the keys and values that a forward pass computes, per token of its input."
)


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
    count, done = 0, 0
    for (ids, mask), targets in zip(blocks.batches(batch_blocks), blocks.targets(batch_blocks), strict=True):
        wanted = targets.wanted
        reference = targets.of(parent(ids, mask)).log_softmax(-1)
        own.nll += float(_nll(reference, targets.tokens)[wanted].double().sum())
        for name in names:
            logp = targets.of(candidates[name](ids, mask)).log_softmax(-1)
            kl = kl_per_token(reference, logp) * wanted.to(reference.device)
            sums[name].nll += float(_nll(logp, targets.tokens)[wanted].double().sum())
            sums[name].kl += float(kl.double().sum())
            per_block[name] += (kl.double().sum(1).cpu() / wanted.sum(1).clamp_min(1)).tolist()
        count += targets.count
        done += len(ids)
        progress(done, len(blocks.ids))
    size = blocks.bytes_per_token
    return own.quality(count, size, [0.0] * len(blocks.ids)), {
        name: sums[name].quality(count, size, per_block[name]) for name in names
    }


def kl_per_token(reference: Tensor, candidate: Tensor) -> Tensor:
    """KL of ``candidate`` to ``reference`` for log-probabilities (..., V) -> (...), nats, at least 0."""
    return torch.nn.functional.kl_div(candidate, reference, reduction="none", log_target=True).sum(-1).clamp_min(0)


def convention_of(blocks: TokenBlocks) -> str:
    """How figures on this text are made, in words."""
    return CONVENTION if blocks.labels is None else MASKED_CONVENTION


def _nll(logp: Tensor, tokens: Tensor) -> Tensor:
    """Negative log-likelihood of the tokens (B, P) under predictions (B, P, V), (B, P), on the CPU."""
    return -logp.gather(-1, tokens[..., None].to(logp.device))[..., 0].cpu()
