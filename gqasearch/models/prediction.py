"""What a model gives for every token, whatever its head."""

from __future__ import annotations

from typing import Any

from torch import Tensor


def prediction_of(output: Any) -> Tensor:
    """From a model's ``output``: logits (B, T, V), or of a model without a head the hidden states (B, T, D)."""
    logits: Tensor | None = getattr(output, "logits", None)
    found: Tensor = output.last_hidden_state if logits is None else logits
    return found
