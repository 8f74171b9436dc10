"""The best W_o of a layer, by ridge regression.

After its groups are merged a layer's heads still give z (Hq dv,) per token, only not quite what W_o was
made for. With b the bias that W_o's module may have, and P = W_o as it is:

    W = argmin_W  E||r_parent - h - b - W z||^2 + ridge * mean(diag E[z z^T]) * ||W - P||^2

Solved for the change W - P, so that a layer that is right already stays what it is. Products over the tokens of a
batch are taken in the layer's dtype, their sums over batches and the solution in float64.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

import torch
from torch import Tensor

from gqasearch.models import LayerWeights
from gqasearch.refining.layer_site import LayerSite

ROWS = 512  # of W_o, looked at together


class OutputRegression:
    """The regression for grouped ``weights``, on the calls that it has read so far."""

    def __init__(self, site: LayerSite, weights: LayerWeights) -> None:
        self._site, self._weights = site, weights
        heads, width, head_dim = weights.o.shape
        # Sums over tokens of z z^T, of e z^T and of ||e||^2, e the error that W_o leaves as it is.
        self._gram = torch.zeros(heads * head_dim, heads * head_dim, dtype=torch.float64, device=weights.o.device)
        self._cross = self._gram.new_zeros(width, heads * head_dim)
        self._energy = self._gram.new_zeros(())
        self._tokens = 0

    def read(self, indices: Iterable[int]) -> None:
        """Take these of the site's calls into account; padding left out."""
        seen: list[Tensor] = []
        handle = self._site.projection.register_forward_pre_hook(lambda _module, args: seen.append(args[0]))
        try:
            for call in (self._site.calls[index] for index in indices):
                with self._site.products():
                    attended = self._site.attend(self._weights, call)
                z = call.counted(seen.pop()).to(self._site.dtype)
                left = call.counted(call.wanted) - call.counted(attended)
                self._gram += z.T @ z
                self._cross += left.T @ z
                self._energy += left.double().square().sum()
                self._tokens += len(z)
        finally:
            handle.remove()

    def fit(self, ridge: float) -> tuple[LayerWeights, float]:
        """The weights with W_o refitted, and their mean over tokens of ||r_parent - h - attention||^2.

        The error never rises: where rounding would make it, W_o is left alone.
        """
        change = self._change(ridge)
        before = float(self._energy) / self._tokens
        gain = sum(
            self._gain(rows, cross) for rows, cross in zip(change.split(ROWS), self._cross.split(ROWS), strict=True)
        )
        if not gain > 0:
            return self._weights, before
        o = self._weights.o
        fitted = torch.empty_like(o)
        for head, moved in enumerate(change.unflatten(1, (len(o), -1)).unbind(1)):
            fitted[head] = o[head] + moved
        return replace(self._weights, o=fitted), before - gain / self._tokens

    def _gain(self, rows: Tensor, cross: Tensor) -> float:
        """How much less error some rows of the change leave, summed over tokens."""
        return float(2 * (rows * cross).sum() - (rows @ self._gram * rows).sum())

    def _change(self, ridge: float) -> Tensor:
        """W - P, (D, Hq dv)."""
        diagonal = self._gram.diagonal()
        own = diagonal.clone()
        penalty = (ridge * own.mean()).clamp_min(torch.finfo(own.dtype).tiny)
        diagonal += penalty  # in place: a wide layer's matrix is large, and calls may be read after this
        factor, failed = torch.linalg.cholesky_ex(self._gram)
        change: Tensor
        if failed:  # under a tiny ridge rounding may leave a direction that z hardly has below 0
            change = torch.linalg.solve(self._gram, self._cross, left=False)
        else:
            change = torch.cholesky_solve(self._cross.T, factor).T
        diagonal.copy_(own)
        return change


def fit_outputs(
    site: LayerSite, weights: LayerWeights, ridge: float, indices: Iterable[int] | None = None
) -> tuple[LayerWeights, float]:
    """``OutputRegression.fit`` on the calls ``indices`` of the site, on all of them if not given."""
    regression = OutputRegression(site, weights)
    regression.read(range(len(site.calls)) if indices is None else indices)
    return regression.fit(ridge)
