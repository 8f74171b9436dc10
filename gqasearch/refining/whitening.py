"""Whitened inputs: coordinates in which every direction of a layer's input weighs the same.

x' = R^-1 x and W' = W R compute what x and W do. Gradient steps on W' see inputs of unit covariance,
where those on W would crawl along the directions that x hardly has.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from gqasearch.models import LayerWeights
from gqasearch.refining.layer_site import AttentionCall, LayerSite

RELATIVE_FLOOR = 1e-3  # added to C's diagonal, relative to its mean: rare directions are not blown up
KEPT_BYTES = 2**28


@dataclass(frozen=True)
class Whitening:
    """R (D, D) float64, R R^T = C + floor * mean(diag C) * I; C = E[x x^T].

    R is lower triangular: Cholesky's takes a small part of the time of a symmetric root, and needs no inverse.
    """

    root: Tensor

    @classmethod
    def of(cls, site: LayerSite, indices: Iterable[int] | None = None) -> Whitening:
        """From the inputs of ``site``, of the calls ``indices`` alone if given; padding left out."""
        size = site.calls[0].hidden.shape[-1]
        moment = torch.zeros(size, size, dtype=torch.float64, device=site.calls[0].hidden.device)
        tokens = 0
        for index in range(len(site.calls)) if indices is None else indices:
            call = site.calls[index]
            x = call.counted(call.hidden).double()
            moment += x.T @ x
            tokens += len(x)
        moment /= tokens
        floor = (RELATIVE_FLOOR * moment.diagonal().mean()).clamp_min(torch.finfo(moment.dtype).tiny)
        moment.diagonal().add_(floor)
        return cls(torch.linalg.cholesky(moment))

    def to(self, dtype: torch.dtype) -> Whitening:
        """The same with R in another dtype."""
        return Whitening(self.root.to(dtype))

    def call(self, call: AttentionCall) -> AttentionCall:
        """The call on x'."""
        hidden = call.hidden.flatten(0, 1)
        return call.with_hidden(_over(hidden, self.root.to(hidden).T, upper=True).view_as(call.hidden))

    def into(self, weights: LayerWeights) -> LayerWeights:
        """Weights that read x', from weights that read x."""
        q, k, v = ((t.double() @ self.root).to(t) for t in (weights.q, weights.k, weights.v))
        return replace(weights, q=q, k=k, v=v)

    def out_of(self, weights: LayerWeights) -> LayerWeights:
        """Weights that read x, from weights that read x'."""
        q, k, v = (
            _over(t.double().flatten(0, 1), self.root, upper=False).view_as(t).to(t)
            for t in (weights.q, weights.k, weights.v)
        )
        return replace(weights, q=q, k=k, v=v)


class WhitenedCalls:
    """The calls of ``site`` on x', by index.

    Their inputs are computed once and kept, those that fit into ``KEPT_BYTES``; in bfloat16 where that is what the
    products are in.
    """

    def __init__(self, site: LayerSite, whitening: Whitening) -> None:
        self._calls, self._whitening = site.calls, whitening.to(site.dtype)
        self._dtype = torch.bfloat16 if site.in_bfloat16 else site.dtype
        self._kept: dict[int, Tensor] = {}
        self._room = KEPT_BYTES

    def __getitem__(self, index: int) -> AttentionCall:
        call = self._calls[index]
        if index in self._kept:
            return call.with_hidden(self._kept[index])
        hidden = self._whitening.call(call).hidden.to(self._dtype)
        if hidden.nbytes <= self._room:
            self._kept[index] = hidden
            self._room -= hidden.nbytes
        return call.with_hidden(hidden)


def _over(rows: Tensor, triangular: Tensor, *, upper: bool) -> Tensor:
    """X with X T = rows."""
    found: Tensor = torch.linalg.solve_triangular(triangular, rows, upper=upper, left=False)
    return found
