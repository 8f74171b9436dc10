"""The layers of one model on several devices, a run of them on each; what they are called with follows.

What a text passes is one layer at a time, so devices take turns: more of them hold more weights, and are no faster.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from accelerate.utils import send_to_device
from torch import nn


def decoder_layers(model: nn.Module) -> nn.ModuleList:
    """The layers of a model, or of an encoder: the list of modules with the most parameters."""
    whole = getattr(model, "base_model", model)
    towers = (getattr(whole, name, None) for name in ("language_model", "text_model"))  # of one that reads images, too
    scope = next((tower for tower in towers if tower is not None), model)
    lists = [module for module in scope.modules() if isinstance(module, nn.ModuleList)]
    return max(lists, key=lambda found: sum(parameter.numel() for parameter in found.parameters()))


class Spread:
    """Which module of ``model`` is where: layers in their order on ``devices``, all else on the first of these."""

    def __init__(self, model: nn.Module, devices: Sequence[str]) -> None:
        self.devices = tuple(torch.device(name) for name in devices)
        self._of: dict[nn.Module, torch.device] = {}
        layers = decoder_layers(model)
        for index, layer in enumerate(layers):
            device = self.devices[index * len(self.devices) // len(layers)]
            self._of |= dict.fromkeys(layer.modules(), device)
        if len(self.devices) > 1:
            self._follow(model, layers)

    def of(self, module: nn.Module) -> torch.device:
        """Where a module's weights are to be, and what it is called with."""
        return self._of.get(module, self.devices[0])

    def _follow(self, model: nn.Module, layers: nn.ModuleList) -> None:
        """Let every layer, and whatever has weights outside them, be called with tensors of its own device."""

        def move(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, Any]:
            device = self.of(module)
            return send_to_device(args, device), send_to_device(kwargs, device)

        outside = (one for one in model.modules() if one not in self._of and one._parameters)  # noqa: SLF001 - own ones
        for module in (*layers, *outside):
            module.register_forward_pre_hook(move, with_kwargs=True)
