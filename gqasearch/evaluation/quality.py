"""Quality of any number of candidates beside the parent's, layer by layer over the text: perplexity, KL to the parent.

Convention: blocks of a fixed length, each from an empty context; every token but the first of a block
is a target; padding never is. Perplexity is exp of the mean negative log-likelihood per target. KL is
sum_v p log(p / q) with p the parent's and q the candidate's distribution, in nats, averaged over targets.
In an encoder's text some tokens are masked (``calibration.masking``) and these are the targets: perplexity is then
pseudo-perplexity (arXiv 1910.14659), of about a seventh of the tokens at once instead of one after another.
A model without a head has neither: ``hidden_quality``.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Unpack

import torch
from torch import Tensor

from gqasearch.calibration import TokenBlocks
from gqasearch.calibration.masking import SHARE
from gqasearch.evaluation.hidden_quality import HIDDEN_CONVENTION, evaluate_hidden
from gqasearch.evaluation.runners import LayerStack
from gqasearch.evaluation.sums import AnyQuality, How, Sums, summed
from gqasearch.models import Objective

CONVENTION = "Blocks from an empty context; every token but a block's first is a target."
MASKED_CONVENTION = (
    f"Blocks with {SHARE:.0%} of their tokens masked, always the same ones; these are the targets, each predicted from "
    "the whole block. Perplexity is pseudo-perplexity: exp of the mean loss at masked tokens. There is no KV cache: "
    "KV bytes are those of the keys and values that a forward pass computes, per token of its input."
)

CACHED_VALUES = 2**17  # float32: half of a core's second cache or less


@dataclass(frozen=True)
class Quality:
    """Means over targets. ``kl`` is 0 for the parent; ``kl_blocks`` holds one mean per block, for paired tests."""

    perplexity: float
    nll: float
    kl: float
    bits_per_byte: float
    targets: int
    kl_blocks: tuple[float, ...]

    def figures(self) -> dict[str, float]:
        return {"perplexity": self.perplexity, "kl": self.kl, "bits_per_byte": self.bits_per_byte}

    def by_block(self) -> tuple[str, tuple[float, ...]]:
        return "kl", self.kl_blocks


class _Sums(Sums[Quality]):
    """``nll``: of the targets so far; the distance is the KL."""

    def __init__(self, blocks: int) -> None:
        super().__init__(blocks)
        self.nll = 0.0

    @staticmethod
    def read(scores: Tensor) -> Tensor:
        """Log-probabilities of logits (n, V)."""
        return scores.log_softmax(-1)

    def add(self, reference: Tensor, found: Tensor, tokens: Tensor, blocks: Tensor) -> None:
        self.nll -= float(found.gather(-1, tokens.to(found.device)[:, None]).double().sum())
        if found is not reference:
            self.distance.index_add_(0, blocks, kl_per_token(reference, found).double().cpu())

    def record(self) -> dict[str, Any]:
        return {"nll": self.nll, "kl": self.distance.tolist()}

    def restore(self, record: Mapping[str, Any]) -> None:
        self.nll, self.distance = float(record["nll"]), torch.tensor(record["kl"], dtype=torch.float64)

    def quality(self, targets: Tensor, bytes_per_token: float) -> Quality:
        count = int(targets.sum())
        nll = self.nll / count
        perplexity = math.exp(nll) if nll < 700 else math.inf
        bits = nll / math.log(2) / bytes_per_token
        kl, per_block = self._mean_distance(targets)
        return Quality(perplexity, nll, kl, bits, count, per_block)


def evaluate_quality(
    parent: LayerStack, candidates: Mapping[str, LayerStack], blocks: TokenBlocks, **how: Unpack[How]
) -> tuple[Quality, dict[str, Quality]]:
    """Quality of the parent and of every candidate; see ``summed``."""
    return summed(_Sums, parent, candidates, blocks, **how)


def kl_per_token(reference: Tensor, candidate: Tensor) -> Tensor:
    """KL of ``candidate`` to ``reference`` for log-probabilities (n, ..., V) -> (n, ...), nats, at least 0.

    A few rows at a time: what is in between stays in the processor's cache, and the figures are the same.
    """
    rows = max(1, CACHED_VALUES // reference.shape[-1])
    pairs = zip(candidate.split(rows), reference.split(rows), strict=True)
    parts = [torch.nn.functional.kl_div(*pair, reduction="none", log_target=True).sum(-1) for pair in pairs]
    return torch.cat(parts).clamp_min(0)


CONVENTIONS: dict[Objective, str] = {
    "next-token": CONVENTION,
    "masked": MASKED_CONVENTION,
    "hidden-states": HIDDEN_CONVENTION,
}
"""How figures are made, in words."""


def evaluate_models(
    objective: Objective,
    parent: LayerStack,
    candidates: Mapping[str, LayerStack],
    blocks: TokenBlocks,
    **how: Unpack[How],
) -> tuple[AnyQuality, Mapping[str, AnyQuality]]:
    """Quality of models by what they predict."""
    evaluate = evaluate_hidden if objective == "hidden-states" else evaluate_quality
    return evaluate(parent, candidates, blocks, **how)
