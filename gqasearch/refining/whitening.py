"""Whitened inputs: coordinates in which every direction of a layer's input weighs the same.

x' = R^-1 x and W' = W R compute what x and W do. Gradient steps on W' see inputs of unit covariance,
where those on W would crawl along the directions that x hardly has.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from gqasearch.models import LayerWeights
from gqasearch.refining.layer_site import AttentionCall, LayerSite

RELATIVE_FLOOR = 1e-3  # added to C's diagonal, relative to its mean: rare directions are not blown up


@dataclass(frozen=True)
class Whitening:
    """R = (C + floor * mean(diag C) * I)^1/2 and its inverse, (D, D) float64, symmetric; C = E[x x^T]."""

    root: Tensor
    inverse: Tensor

    @classmethod
    def of(cls, site: LayerSite) -> Whitening:
        """From the inputs of ``site``, padding left out."""
        size = site.calls[0].hidden.shape[-1]
        moment = torch.zeros(size, size, dtype=torch.float64, device=site.calls[0].hidden.device)
        for call in site.calls:
            x = call.hidden[call.mask].double()
            moment += x.T @ x
        floor = (RELATIVE_FLOOR * moment.diagonal().mean()).clamp_min(torch.finfo(moment.dtype).tiny)
        tokens = sum(int(call.mask.sum()) for call in site.calls)
        values, vectors = torch.linalg.eigh((moment + floor * torch.eye(size).to(moment)) / tokens)
        roots = values.clamp_min(floor / tokens).sqrt()
        return cls((vectors * roots) @ vectors.T, (vectors / roots) @ vectors.T)

    def call(self, call: AttentionCall) -> AttentionCall:
        """The call on x'."""
        return call.with_hidden(call.hidden @ self.inverse.to(call.hidden))

    def into(self, weights: LayerWeights) -> LayerWeights:
        """Weights that read x', from weights that read x."""
        return _times(weights, self.root)

    def out_of(self, weights: LayerWeights) -> LayerWeights:
        """Weights that read x, from weights that read x'."""
        return _times(weights, self.inverse)


def _times(weights: LayerWeights, matrix: Tensor) -> LayerWeights:
    """q, k and v times ``matrix`` on their input side; the product in float64."""
    q, k, v = ((t.double() @ matrix).to(t) for t in (weights.q, weights.k, weights.v))
    return replace(weights, q=q, k=k, v=v)
