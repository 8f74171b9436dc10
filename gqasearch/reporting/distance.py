"""Which figure says how far a model is from its parent, and its words."""

from __future__ import annotations

from dataclasses import dataclass

import pandas as pd


@dataclass(frozen=True)
class Distance:
    """``column``: of the results' frame, as in metrics.json; ``name``: in a sentence; ``axis``: with its unit."""

    column: str
    name: str
    axis: str


KL = Distance("kl", "KL", "KL to the parent, nats per token")
HIDDEN_ERROR = Distance("hidden_error", "hidden-state error", "error of hidden states, relative to the parent's")


def distance_of(frame: pd.DataFrame) -> Distance:
    """The one that was measured: of models without a head their hidden states' error, else the KL."""
    found = frame["hidden_error"].mask(frame["is_parent"])
    return HIDDEN_ERROR if found.notna().any() else KL
