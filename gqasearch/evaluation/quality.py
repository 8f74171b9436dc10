"""Perplexity, and KL to the parent, of any number of candidates, layer by layer over the text.

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
from itertools import accumulate
from typing import Any

import torch
from torch import Tensor

from gqasearch.calibration import TokenBlocks, no_progress
from gqasearch.calibration.masking import SHARE
from gqasearch.evaluation.climb import HIDDEN_BYTES, climb
from gqasearch.evaluation.climb_state import ClimbState
from gqasearch.evaluation.runners import LayerStack

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


class _Sums:
    """Of one model over the targets so far: ``nll``, and ``kl`` of every block, (N,)."""

    def __init__(self, blocks: int) -> None:
        self.nll, self.kl = 0.0, torch.zeros(blocks, dtype=torch.float64)

    def add(self, reference: Tensor, logp: Tensor, tokens: Tensor, blocks: Tensor) -> None:
        """Targets (n,) and their ``blocks`` (n,), under log-probabilities (n, V) of the parent and of this model."""
        self.nll -= float(logp.gather(-1, tokens.to(logp.device)[:, None]).double().sum())
        self.kl.index_add_(0, blocks, kl_per_token(reference, logp).double().cpu())

    def record(self) -> dict[str, Any]:
        """As JSON, every bit of it."""
        return {"nll": self.nll, "kl": self.kl.tolist()}

    def restore(self, record: Mapping[str, Any]) -> None:
        """What ``record`` gave."""
        self.nll, self.kl = float(record["nll"]), torch.tensor(record["kl"], dtype=torch.float64)

    def quality(self, targets: Tensor, bytes_per_token: float) -> Quality:
        """``targets`` (N,): of every block."""
        count = int(targets.sum())
        nll = self.nll / count
        perplexity = math.exp(nll) if nll < 700 else math.inf
        bits = nll / math.log(2) / bytes_per_token
        per_block = (self.kl / targets.clamp_min(1)).tolist()
        return Quality(perplexity, nll, float(self.kl.sum()) / count, bits, count, tuple(per_block))


def evaluate_quality(
    parent: LayerStack,
    candidates: Mapping[str, LayerStack],
    blocks: TokenBlocks,
    *,
    batch_blocks: int = 8,
    hidden_bytes: int = HIDDEN_BYTES,
    state: ClimbState | None = None,
    progress: Callable[[int, int], None] = no_progress,
) -> tuple[Quality, dict[str, Quality]]:
    """Quality of the parent and of every candidate, which go up through their layers together (see ``climb``).

    All in the models' own dtype, float32 as a rule: products in bfloat16 add some 1e-4 to 3e-4 nats of noise to a model
    (measured at 3 M and 135 M parameters), which is seen in the third digit of a KL below a tenth.
    ``hidden_bytes``: of the hidden states in memory; for more text than fits, every layer's weights are read again.
    ``state``: goes on where an earlier process with the same arguments left off.
    """
    stacks = [parent, *candidates.values()]
    counts = [targets.wanted.sum(1) for targets in blocks.targets(batch_blocks)]
    first = [0, *accumulate(map(len, counts))]  # the first block of every batch
    sums = [_Sums(first[-1]) for _ in stacks]
    if state is not None:
        for own, record in zip(sums, state.sums, strict=False):  # none at the beginning
            own.restore(record)
        state.note(lambda: [own.record() for own in sums])
    for found in climb(stacks, blocks, batch_blocks, hidden_bytes=hidden_bytes, state=state, progress=progress):
        logps = [scores.log_softmax(-1) for scores in found.scores]
        for own, logp in zip(sums, logps, strict=True):
            own.add(logps[0], logp, found.tokens, first[found.batch] + found.blocks)
    qualities = [own.quality(torch.cat(counts), blocks.bytes_per_token) for own in sums]
    return qualities[0], dict(zip(candidates, qualities[1:], strict=True))


def kl_per_token(reference: Tensor, candidate: Tensor) -> Tensor:
    """KL of ``candidate`` to ``reference`` for log-probabilities (..., V) -> (...), nats, at least 0."""
    return torch.nn.functional.kl_div(candidate, reference, reduction="none", log_target=True).sum(-1).clamp_min(0)


def convention_of(blocks: TokenBlocks) -> str:
    """How figures on this text are made, in words."""
    return CONVENTION if blocks.labels is None else MASKED_CONVENTION
