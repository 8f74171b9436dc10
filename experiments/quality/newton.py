"""Gauss-Newton steps in place of Adam's: what a layer adds, made linear in all its weights, and conjugate gradients."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

import torch
from torch import Tensor

from gqasearch.models import LayerWeights
from gqasearch.refining import Descent, LayerSite
from gqasearch.refining.descent import FITTED, layer_loss, typical_size
from gqasearch.refining.whitening import WhitenedCalls

STEP = 1e-2  # of a finite difference, relative to the size of the weights
SHORTER = (1.0, 0.5, 0.25)  # of a step, tried one after the other

Vector: TypeAlias = dict[str, Tensor]


@dataclass(frozen=True)
class GaussNewton(Descent):
    """``rounds`` Levenberg-Marquardt steps on W_q, W_k, W_v and W_o together, then ``steps`` of Adam as in ``descent``.

    The normal equations (J^T J + ``damping`` r) d = J^T e of ``batches`` batches, in units of every tensor's typical
    size, take ``inner`` rounds of conjugate gradients; r is |J g|^2 / |g|^2 of the gradient g. J d is a finite
    difference, J^T e a gradient (Nocedal and Wright, Numerical Optimization, sections 7.1 and 10.3). A step is kept
    where it, or a half or a quarter of it, lowers the loss on as many other batches.
    """

    rounds: int = 3
    inner: int = 10
    batches: int = 8
    damping: float = 0.01

    def _steps_on(
        self, site: LayerSite, whitened: LayerWeights, inputs: WhitenedCalls, step: Callable[[], None]
    ) -> LayerWeights:
        order = torch.randperm(len(site.calls), generator=torch.Generator().manual_seed(self.seed)).tolist()
        for place in range(self.rounds):
            turned = order[2 * place * self.batches :] + order[: 2 * place * self.batches]
            whitened = self._newton_step(site, whitened, inputs, turned)
        return super()._steps_on(site, whitened, inputs, step)

    def _newton_step(
        self, site: LayerSite, weights: LayerWeights, inputs: WhitenedCalls, order: Sequence[int]
    ) -> LayerWeights:
        fitted, held = order[: self.batches], order[self.batches : 2 * self.batches]
        linear = Linearised(site, weights, inputs, fitted)
        direction = linear.solved(self.damping, self.inner)

        def loss(candidate: LayerWeights) -> float:
            with torch.no_grad():
                return sum(float(layer_loss(site, candidate, inputs[index])) for index in held)

        before = loss(weights)
        for part in SHORTER:
            moved = linear.moved(direction, part)
            if loss(moved) < before:
                return moved
        return weights


class Linearised:
    """What a layer adds on some batches as a linear function of changes of its weights, in units of their sizes."""

    def __init__(self, site: LayerSite, weights: LayerWeights, inputs: WhitenedCalls, indices: Sequence[int]) -> None:
        self.site, self.weights, self.inputs, self.indices = site, weights, inputs, indices
        self.sizes = {name: typical_size(t) for name in FITTED if (t := getattr(weights, name)) is not None}
        with torch.no_grad():
            self.added = [self._attended(weights, index) for index in indices]

    def moved(self, change: Vector, part: float = 1.0) -> LayerWeights:
        """The weights changed by this part of ``change``."""
        parts: Any = {name: getattr(self.weights, name) + part * self.sizes[name] * t for name, t in change.items()}
        return replace(self.weights, **parts)

    def solved(self, damping: float, rounds: int) -> Vector:
        """What ``rounds`` rounds of conjugate gradients make of the damped normal equations."""
        wanted = (self.inputs[index].counted(self.inputs[index].wanted) for index in self.indices)
        residual = self._back(want - added for want, added in zip(wanted, self.added, strict=True))
        change = {name: torch.zeros_like(t) for name, t in residual.items()}
        direction, energy = residual, _dot(residual, residual)
        ridge = damping * _dot(residual, self._squared(residual)) / max(energy, 1e-30)
        for _ in range(rounds):
            image = _sum(self._squared(direction), direction, ridge)
            length = energy / max(_dot(direction, image), 1e-30)
            change, residual = _sum(change, direction, length), _sum(residual, image, -length)
            energy, before = _dot(residual, residual), energy
            direction = _sum(residual, direction, energy / max(before, 1e-30))
        return change

    def _squared(self, change: Vector) -> Vector:
        """J^T J change."""
        size = STEP / max(_dot(change, change) / sum(t.numel() for t in change.values()), 1e-30) ** 0.5
        with torch.no_grad():
            moved = self.moved(change, size)
            raised = [self._attended(moved, index) for index in self.indices]
        return self._back((up - added) / size for up, added in zip(raised, self.added, strict=True))

    def _back(self, errors: Iterator[Tensor]) -> Vector:
        """J^T of errors (N, D), batch by batch."""
        given = {name: getattr(self.weights, name).detach().clone().requires_grad_() for name in self.sizes}
        weights = replace(self.weights, **given)
        for index, error in zip(self.indices, errors, strict=True):
            with torch.enable_grad():
                (self._attended(weights, index) * error).sum().backward()
        return {name: t.grad * self.sizes[name] for name, t in given.items() if t.grad is not None}

    def _attended(self, weights: LayerWeights, index: int) -> Tensor:
        call = self.inputs[index]
        with self.site.products():
            return call.counted(self.site.attend(weights, call))


def _dot(one: Vector, other: Vector) -> float:
    return sum(float((one[name] * other[name]).sum()) for name in one)


def _sum(one: Vector, other: Vector, factor: float) -> Vector:
    return {name: one[name] + factor * other[name] for name in one}
