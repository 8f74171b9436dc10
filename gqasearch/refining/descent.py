"""Descent: all attention weights of a grouped layer, fitted to the parent's residual stream by Adam.

What a closed form cannot do, because keys act through a softmax and W_q, W_k, W_v, W_o act together. Only one
layer's attention is run at a time, against a target that is known, so steps are cheap and few.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch
from torch import Tensor

from gqasearch.models import LayerWeights
from gqasearch.refining._base import LayerwiseRefinement
from gqasearch.refining.layer_site import AttentionCall, LayerSite
from gqasearch.refining.ridge import OutputRegression, fit_outputs
from gqasearch.refining.whitening import WhitenedCalls, Whitening

FITTED = ("q", "k", "v", "o", "q_bias", "k_bias", "v_bias", "q_norms", "k_norms")
NORMAL_MEDIAN = 0.6745  # of the absolute value of a standard normal number
BETAS = (0.9, 0.99)  # a short second memory: there are few steps


@dataclass(frozen=True)
class Descent(LayerwiseRefinement):
    """W_o by ridge regression, then ``steps`` steps of Adam on W_q, W_k, W_v, W_o and biases, then W_o again.

    The loss is the mean over tokens of ||r_parent - h - attention(x)||^2; shared K and V stay shared. The first
    regression, the whitening of inputs (``Whitening``) and the comparison before and after take a part of the text
    (``LayerSite.spread_part``), the last regression all of it. Where the loss does not fall, the layer is refined as
    ``outputs`` would. ``validate``: where the text is short for the layer, the steps do not see a part of it
    (``LayerSite.held_out``), the layer goes as far along the line from before them to after them as is best there, and
    regressions are as in ``outputs``. Products may be in bfloat16 (``LayerSite.in_bfloat16``): on machines with and
    without it results agree within its rounding. ``learning_rate``: of each tensor relative to the typical size of its
    entries (``typical_size``), falling to 0 along a line. ``batch_blocks``: blocks of text per step (and per forward
    pass), drawn without replacement until all were seen, in an order made from ``seed``. ``ridge``: as in ``outputs``.
    ``rounded_steps``: where the cache will be rounded, so many steps follow once the basis for that is chosen, with
    attention reading keys and values as the cache gives them, and gradients straight through; 0 for none.
    ``whole``: layers in which nothing is shared are fitted, too, above one that was changed and where the cache is
    rounded, and are the parent's no longer.
    """

    name: ClassVar[str] = "descent"
    reference: ClassVar[str] = "https://arxiv.org/abs/1412.6980"
    summary: ClassVar[str] = "outputs, then Adam on W_q, W_k, W_v, W_o of one layer at a time, to the same target"

    steps: int = 240
    learning_rate: float = 0.025
    batch_blocks: int = 2
    ridge: float = 1e-3
    seed: int = 0
    rounded_steps: int = 120
    whole: bool = False
    validate: bool = True

    def __post_init__(self) -> None:
        for name in ("steps", "batch_blocks"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        if self.rounded_steps < 0:
            raise ValueError(f"rounded_steps must be at least 0, got {self.rounded_steps}")
        for name in ("learning_rate", "ridge"):
            if not 0 < getattr(self, name) < math.inf:
                raise ValueError(f"{name} must be above 0, got {getattr(self, name)}")

    def after_basis(self) -> Descent | None:
        """``rounded_steps`` steps, and W_o before and after them."""
        if not self.rounded_steps:
            return None
        names = ("learning_rate", "batch_blocks", "ridge", "seed", "whole", "validate")
        return Descent(steps=self.rounded_steps, **{name: getattr(self, name) for name in names})

    @property
    def fits_whole(self) -> bool:
        return self.whole

    @property
    def layer_steps(self) -> int:
        return self.steps + 2

    def blocks_per_pass(self, batch_blocks: int) -> int:
        return self.batch_blocks

    def refine_layer(self, site: LayerSite, merged: LayerWeights, step: Callable[[], None]) -> LayerWeights:
        part, rest = site.spread_part()
        held_out = self._held_out(site)
        start, before = self._outputs(site, merged, [index for index in part if index not in held_out])
        step()
        moved = self.descend(site, start, Whitening.of(site, part), step)
        if held_out:
            found, _ = self._outputs(site, best_between(site, start, moved, held_out))
            step()
            return found
        last = OutputRegression(site, moved, self.validate)
        last.read(part)
        found, after = last.fit(self.ridge)
        if not after < before:
            found, _ = self._outputs(site, merged)
        elif rest:
            last.read(rest)
            found, _ = last.fit(self.ridge)
        step()
        return found

    def _held_out(self, site: LayerSite) -> list[int]:
        return site.held_out() if self.validate else []

    def _outputs(
        self, site: LayerSite, merged: LayerWeights, indices: Iterable[int] | None = None
    ) -> tuple[LayerWeights, float]:
        return fit_outputs(site, merged, self.ridge, indices, validate=self.validate)

    def descend(
        self, site: LayerSite, weights: LayerWeights, whitening: Whitening, step: Callable[[], None]
    ) -> LayerWeights:
        """The Adam steps alone, in the coordinates of ``whitening``; (G, ...) weights in and out."""
        moved = self._steps_on(site, whitening.into(weights), WhitenedCalls(site, whitening), step)
        return whitening.out_of(moved)

    def _steps_on(
        self, site: LayerSite, whitened: LayerWeights, inputs: WhitenedCalls, step: Callable[[], None]
    ) -> LayerWeights:
        """The same of weights that read x', where x' is ``inputs``."""
        fitted: dict[str, Any] = {
            name: tensor.detach().clone().requires_grad_()
            for name in FITTED
            if (tensor := getattr(whitened, name)) is not None
        }
        whitened = replace(whitened, **fitted)
        groups = [
            {"params": [tensor], "lr": self.learning_rate * typical_size(tensor.detach())} for tensor in fitted.values()
        ]
        optimizer = torch.optim.Adam(groups, betas=BETAS, fused=True)
        rates = [group["lr"] for group in optimizer.param_groups]
        held_out = self._held_out(site)
        seen = [index for index in range(len(site.calls)) if index not in held_out]
        for done, place in enumerate(minibatches(len(seen), self.steps, self.seed)):
            for group, rate in zip(optimizer.param_groups, rates, strict=True):
                group["lr"] = rate * self._decay(done)
            with torch.enable_grad():
                loss = layer_loss(site, whitened, inputs[seen[place]])
                loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            step()
        return replace(whitened, **{name: tensor.detach() for name, tensor in fitted.items()})

    def _decay(self, step: int) -> float:
        return 1 - step / self.steps


def best_between(site: LayerSite, start: LayerWeights, end: LayerWeights, calls: Iterable[int]) -> LayerWeights:
    """Of weights on the line from ``start`` to ``end``, a quarter of it apart, those with the least loss on ``calls``.

    Steps that fit the text that they see, and no other, go too far in a direction that is right.
    """

    def at(share: float) -> LayerWeights:
        ends = {name: (getattr(start, name), getattr(end, name)) for name in FITTED}
        moved: dict[str, Any] = {name: torch.lerp(a, b, share) for name, (a, b) in ends.items() if a is not None}
        return replace(start, **moved)

    read = list(calls)
    losses = {
        share: sum(float(layer_loss(site, at(share), site.calls[index])) for index in read)
        for share in (0.0, 0.25, 0.5, 0.75, 1.0)
    }
    return at(min(losses, key=losses.__getitem__))


def minibatches(calls: int, steps: int, seed: int) -> Iterator[int]:
    """``steps`` of so many batches: every one once, then every one again in another order, and so on."""
    generator = torch.Generator().manual_seed(seed)
    order: list[int] = []
    for _ in range(steps):
        order = order or torch.randperm(calls, generator=generator).tolist()
        yield order.pop()


def typical_size(tensor: Tensor) -> float:
    """The standard deviation of the entries if they were normal, from the median of their absolute values.

    In whitened coordinates a few columns of W_q and W_k are far larger than the rest, those of directions that nearly
    every token has: 3 to 8 times as large is the standard deviation itself, and a rate relative to it is too high for
    nearly all entries.
    """
    size = float(tensor.abs().median()) / NORMAL_MEDIAN
    return size if size > 0 else float(tensor.std(correction=0))  # most entries may be zero


def layer_loss(site: LayerSite, weights: LayerWeights, call: AttentionCall) -> Tensor:
    """Mean over the tokens of a batch of ||r_parent - h - attention(x)||^2, over the mean of ||r_parent - h||^2.

    The quotient makes gradients independent of the model's scale, which Adam's epsilon is not.
    """
    wanted = call.counted(call.wanted)
    with site.products():
        attended = site.attend(weights, call)
    error = call.counted(attended) - wanted
    return error.square().sum() / wanted.square().sum().clamp_min(torch.finfo(wanted.dtype).tiny)
