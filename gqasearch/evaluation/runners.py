"""Ways to compute logits: a loaded model, or the parent with some layers replaced."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor
from transformers import PreTrainedModel

from gqasearch.models import LayerWeights, Parent, device_of, layers_replaced

Runner = Callable[[Tensor, Tensor], Tensor]
"""(ids (B, T), mask (B, T) bool) -> logits (B, T, V) float32."""


def model_runner(model: PreTrainedModel) -> Runner:
    """Run a loaded model as it is."""
    device = device_of(model)

    def run(ids: Tensor, mask: Tensor) -> Tensor:
        with torch.no_grad():
            out = model(input_ids=ids.to(device), attention_mask=mask.long().to(device), use_cache=False)
        logits: Tensor = out.logits
        return logits.float()

    return run


def tied_runner(parent: Parent, layers: Mapping[int, LayerWeights]) -> Runner:
    """Run the parent with these source-shaped layers in place of its own (see ``tie_heads``)."""
    inner = model_runner(parent.model)

    def run(ids: Tensor, mask: Tensor) -> Tensor:
        with layers_replaced(parent, layers):
            return inner(ids, mask)

    return run
