"""Perplexity and KL by the position of a token in its block: whether a model loses its long contexts first."""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise
from typing import Unpack

import torch
from torch import Tensor

from gqasearch.calibration import TokenBlocks
from gqasearch.evaluation.climb import climb
from gqasearch.evaluation.quality import kl_per_token
from gqasearch.evaluation.runners import LayerStack
from gqasearch.evaluation.sums import How

FIRST = 16  # tokens of context below which all positions are one row; every row after it is twice as wide


@dataclass(frozen=True)
class PositionRow:
    """Targets with ``first`` to ``last`` tokens before them, ``targets`` in number; KL in nats per token."""

    first: int
    last: int
    targets: int
    parent_perplexity: float
    perplexity: float
    kl: float


def by_position(
    parent: LayerStack, converted: LayerStack, blocks: TokenBlocks, **how: Unpack[How]
) -> list[PositionRow]:
    """A row for every range of positions that has targets; see ``summed`` for ``how``."""
    batch_blocks = how.setdefault("batch_blocks", 8)
    positions = [targets.wanted.nonzero()[:, 1] + 1 for targets in blocks.targets(batch_blocks)]
    sums = torch.zeros(4, blocks.ids.shape[1], dtype=torch.float64)  # targets, both models' losses, KL
    for found in climb([parent, converted], blocks, **how):
        own, other = (scores.log_softmax(-1).cpu() for scores in found.scores)
        losses = [-logp.gather(-1, found.tokens[:, None])[:, 0] for logp in (own, other)]
        values = torch.stack([torch.ones_like(losses[0]), *losses, kl_per_token(own, other)])
        sums.index_add_(1, positions[found.batch][found.rows], values.double())
    return _rows(sums)


def _rows(sums: Tensor) -> list[PositionRow]:
    """Of sums (4, T) by position."""
    edges = [1, *(FIRST << step for step in range(sums.shape[1].bit_length()))]
    rows = []
    for first, end in pairwise(edges):
        count, own, other, kl = sums[:, first:end].sum(1).tolist()
        if count:
            last = min(end, sums.shape[1]) - 1
            rows.append(PositionRow(first, last, int(count), _exp(own / count), _exp(other / count), kl / count))
    return rows


def _exp(nll: float) -> float:
    return math.exp(nll) if nll < 700 else math.inf
