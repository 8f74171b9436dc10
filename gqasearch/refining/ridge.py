"""The best W_o of a layer, by ridge regression.

After its groups are merged a layer's heads still give z (Hq dv,) per token, only not quite what W_o was
made for. With b the bias that W_o's module may have, and P = W_o as it is:

    W = argmin_W  E||r_parent - h - b - W z||^2 + ridge * mean(diag E[z z^T]) * ||W - P||^2

Solved for the change W - P, so that a layer that is right already stays what it is. Products over the tokens of a
batch are taken in the layer's dtype, their sums over batches and the solution in float64.

Where the text is short for the layer (``LayerSite.is_scarce``) ridges up to ``STRONGER`` times as large are compared by
twofold cross-validation (Stone, 1974, https://www.jstor.org/stable/2984809), and no change with them. A wide layer's
rows are compared by ``SKETCHED`` random sums of them, whose errors are its own on average (Johnson and Lindenstrauss).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

import torch
from torch import Tensor

from gqasearch.models import LayerWeights
from gqasearch.refining.layer_site import LayerSite

ROWS = 512  # of W_o, looked at together
STRONGER = (1.0, 10.0, 100.0, 1e3, 1e4)  # times ``ridge``
SKETCHED = 256


class OutputRegression:
    """The regression for grouped ``weights``, on the calls that it has read so far.

    ``validate``: whether the ridge is compared with stronger ones where the text is short.
    """

    def __init__(self, site: LayerSite, weights: LayerWeights, validate: bool = True) -> None:
        self._site, self._weights = site, weights
        heads, width, head_dim = weights.o.shape
        # Sums over tokens of z z^T, of e z^T and of ||e||^2, e the error that W_o leaves as it is.
        self._gram = torch.zeros(heads * head_dim, heads * head_dim, dtype=torch.float64, device=weights.o.device)
        self._cross = self._gram.new_zeros(width, heads * head_dim)
        self._energy = self._gram.new_zeros(())
        self._tokens = 0
        self._calls = 0
        # The same of every second call, e sketched, where there is something to choose.
        self._sketch = _sketch_of(width).to(self._gram)
        self._half = (self._gram.clone(), self._sketch @ self._cross) if validate and site.is_scarce else None

    def read(self, indices: Iterable[int]) -> None:
        """Take these of the site's calls into account; padding left out."""
        seen: list[Tensor] = []
        handle = self._site.projection.register_forward_pre_hook(lambda _module, args: seen.append(args[0]))
        try:
            for index in indices:
                call = self._site.calls[index]
                with self._site.products():
                    attended = self._site.attend(self._weights, call)
                z = call.counted(seen.pop()).to(self._site.dtype)
                left = call.counted(call.wanted) - call.counted(attended)
                gram = z.T @ z
                self._gram += gram
                self._cross += left.T @ z
                if self._half is not None and self._calls % 2:
                    self._half[0].add_(gram)
                    self._half[1].add_((left @ self._sketch.to(left).T).T @ z)
                self._energy += left.double().square().sum()
                self._tokens += len(z)
                self._calls += 1
        finally:
            handle.remove()

    def fit(self, ridge: float) -> tuple[LayerWeights, float]:
        """The weights with W_o refitted, and their mean over tokens of ||r_parent - h - attention||^2.

        The error never rises: where rounding would make it, W_o is left alone.
        """
        before = float(self._energy) / self._tokens
        chosen = self._validated(ridge)
        if chosen is None:
            return self._weights, before
        change = _change(self._gram, self._cross, chosen)
        gain = sum(
            _gain(rows, cross, self._gram)
            for rows, cross in zip(change.split(ROWS), self._cross.split(ROWS), strict=True)
        )
        if not gain > 0:
            return self._weights, before
        o = self._weights.o
        fitted = torch.empty_like(o)
        for head, moved in enumerate(change.unflatten(1, (len(o), -1)).unbind(1)):
            fitted[head] = o[head] + moved
        return replace(self._weights, o=fitted), before - gain / self._tokens

    def _validated(self, ridge: float) -> float | None:
        """The ridge under which each half of the calls leaves the least error on the other; None for no change."""
        if self._half is None or self._calls < 2:
            return ridge
        half = self._half
        other = self._gram - half[0], self._sketch @ self._cross - half[1]
        gains = {
            ridge * factor: sum(
                _gain(_change(*fitted, ridge * factor), cross, gram)
                for fitted, (gram, cross) in ((half, other), (other, half))
            )
            for factor in STRONGER
        }
        best = max(gains, key=gains.__getitem__)
        return best if gains[best] > 0 else None


def _sketch_of(width: int) -> Tensor:
    """(min(width, SKETCHED), width): random sums of as many rows, or all of them."""
    if width <= SKETCHED:
        return torch.eye(width)
    drawn = torch.randn(SKETCHED, width, generator=torch.Generator().manual_seed(0))
    return drawn.div(SKETCHED**0.5)


def _gain(rows: Tensor, cross: Tensor, gram: Tensor) -> float:
    """How much less error some rows of a change leave, summed over tokens."""
    return float(2 * (rows * cross).sum() - (rows @ gram * rows).sum())


def _change(gram: Tensor, cross: Tensor, ridge: float) -> Tensor:
    """W - P, (D, Hq dv)."""
    diagonal = gram.diagonal()
    own = diagonal.clone()
    penalty = (ridge * own.mean()).clamp_min(torch.finfo(own.dtype).tiny)
    diagonal += penalty  # in place: a wide layer's matrix is large, and calls may be read after this
    factor, failed = torch.linalg.cholesky_ex(gram)
    change: Tensor
    if failed:  # under a tiny ridge rounding may leave a direction that z hardly has below 0
        change = torch.linalg.solve(gram, cross, left=False)
    else:
        change = torch.cholesky_solve(cross.T, factor).T
    diagonal.copy_(own)
    return change


def fit_outputs(
    site: LayerSite,
    weights: LayerWeights,
    ridge: float,
    indices: Iterable[int] | None = None,
    *,
    validate: bool = True,
) -> tuple[LayerWeights, float]:
    """``OutputRegression.fit`` on the calls ``indices`` of the site, on all of them if not given."""
    regression = OutputRegression(site, weights, validate)
    regression.read(range(len(site.calls)) if indices is None else indices)
    return regression.fit(ridge)
