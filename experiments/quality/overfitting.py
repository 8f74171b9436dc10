"""Ways to keep the descent from learning its own text by heart: they were tried, and none is part of the product."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch

from gqasearch.models import LayerWeights
from gqasearch.refining import Descent, LayerSite
from gqasearch.refining.descent import BETAS, FITTED, layer_loss, minibatches, typical_size
from gqasearch.refining.whitening import WhitenedCalls

HELD_BACK = 8  # one batch of so many
LOOKS = 8  # how often the loss on the batches held back is taken


@dataclass(frozen=True)
class GuardedDescent(Descent):
    """Descent that stops early, or is pulled back to where it began.

    ``stop_early``: fitted on seven batches of eight; of eight places on the way, and the start, the one whose loss on
    the others is least. ``pull``: after every step a weight goes this part of its rate's way back to its start
    (decoupled weight decay, https://arxiv.org/abs/1711.05101, towards the start in place of zero).
    """

    stop_early: bool = False
    pull: float = 0.0

    def _steps_on(
        self, site: LayerSite, whitened: LayerWeights, inputs: WhitenedCalls, step: Callable[[], None]
    ) -> LayerWeights:
        calls = len(site.calls)
        held = range(0, calls, HELD_BACK) if self.stop_early else range(0)
        shown = [index for index in range(calls) if index not in held]
        fitted, start = _parameters(whitened), _parameters(whitened)
        moving = replace(whitened, **fitted)
        rates = {name: self.learning_rate * typical_size(tensor.detach()) for name, tensor in fitted.items()}
        groups = [{"params": [tensor], "lr": rates[name]} for name, tensor in fitted.items()]
        optimizer = torch.optim.Adam(groups, betas=BETAS, fused=True)
        best, least = whitened, self._loss(site, whitened, inputs, held)
        for done, index in enumerate(minibatches(len(shown), self.steps, self.seed)):
            for group, rate in zip(optimizer.param_groups, rates.values(), strict=True):
                group["lr"] = rate * self._decay(done)
            with torch.enable_grad():
                layer_loss(site, moving, inputs[shown[index]]).backward()
            optimizer.step()
            optimizer.zero_grad()
            with torch.no_grad():
                for name, tensor in fitted.items():
                    tensor.lerp_(start[name], self.pull * self._decay(done))
            if held and (done + 1) % max(1, self.steps // LOOKS) == 0:
                loss = self._loss(site, moving, inputs, held)
                if loss < least:
                    best, least = _detached(moving, fitted), loss
            step()
        return best if held else _detached(moving, fitted)

    def _loss(self, site: LayerSite, weights: LayerWeights, inputs: WhitenedCalls, held: range) -> float:
        with torch.no_grad():
            return sum(float(layer_loss(site, weights, inputs[index])) for index in held)


def _parameters(weights: LayerWeights) -> dict[str, Any]:
    found = {name: tensor for name in FITTED if (tensor := getattr(weights, name)) is not None}
    return {name: tensor.detach().clone().requires_grad_() for name, tensor in found.items()}


def _detached(weights: LayerWeights, fitted: dict[str, Any]) -> LayerWeights:
    return replace(weights, **{name: tensor.detach().clone() for name, tensor in fitted.items()})
