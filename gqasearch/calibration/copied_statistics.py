"""The statistics of a model with some of its heads twice, from those of the model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch

from gqasearch.calibration.statistics import LayerStatistics, Statistics


@dataclass(frozen=True)
class CopiedHeads(Statistics):
    """``inner`` with copies of the heads ``copied`` (L, n) after the others; each carries ``queries_per_kv`` queries.

    A copy looks as far back as its head does, and errors of its scores cost nothing: its W_o is zero.
    """

    inner: Statistics
    copied: Sequence[Sequence[int]]
    queries_per_kv: int

    @property
    def tokens(self) -> int:
        return self.inner.tokens

    @property
    def source(self) -> str:
        return self.inner.source

    @property
    def fingerprint(self) -> str:
        return self.inner.fingerprint

    def layer(self, index: int) -> LayerStatistics:
        own, copied = self.inner.layer(index), list(self.copied[index])
        heads = torch.tensor([*range(len(own.key_cosine)), *copied])
        queries = (heads[:, None] * self.queries_per_kv + torch.arange(self.queries_per_kv)).flatten()
        gain = own.score_gain[queries]
        gain[len(own.score_gain) :] = 0
        return replace(
            own,
            key_cosine=own.key_cosine[heads][:, heads],
            value_cosine=own.value_cosine[heads][:, heads],
            score_gain=gain,
            distance=own.distance[queries],
        )
