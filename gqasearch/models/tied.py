"""Run the parent with other attention weights, and give it back unmodified."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor

from gqasearch.models.layer import LayerWeights
from gqasearch.models.parent import Parent


@contextmanager
def layers_replaced(parent: Parent, layers: Mapping[int, LayerWeights]) -> Iterator[None]:
    """Within the block ``parent.model`` computes with these layers (source-shaped: see ``tie_heads``).

    Layers not named keep their weights. All weights are put back on leaving, also after an error.
    """
    with torch.no_grad():
        written = {
            name: tensor
            for index, weights in layers.items()
            for name, tensor in parent.family.write_layer(weights, index).items()
        }
    if parent.weights is not None:
        with parent.weights.replaced(written):
            yield
        return
    before: dict[str, Tensor] = {}
    try:
        for name, tensor in written.items():
            parameter = parent.model.get_parameter(name)
            before[name] = parameter.data
            parameter.data = tensor.to(parameter.device, parameter.dtype)
        yield
    finally:
        for name, tensor in before.items():
            parent.model.get_parameter(name).data = tensor
