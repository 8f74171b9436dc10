"""What a text asks a model to predict, and where in its logits the predictions stand."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

NO_TARGET = -100  # in labels, as transformers has it


@dataclass(frozen=True)
class Targets:
    """The predictions of one batch, P of every block.

    ``tokens`` (B, P): what stands there; ``wanted`` (B, P) bool: False where nothing is to be predicted; ``places``
    (B, P): whose logits predict them, None for all tokens but a block's last.
    """

    tokens: Tensor
    wanted: Tensor
    places: Tensor | None = None

    @classmethod
    def following(cls, ids: Tensor, mask: Tensor) -> Targets:
        """Every token that follows another, (B, T) -> P = T - 1."""
        return cls(ids[:, 1:], mask[:, 1:])

    @classmethod
    def labelled(cls, labels: Tensor) -> Targets:
        """The tokens (B, T) that are not ``NO_TARGET``, each predicted at its own place; P: the most of a block."""
        wanted = labels != NO_TARGET
        most = max(1, int(wanted.sum(1).max()))
        places = (~wanted).int().argsort(dim=1, stable=True)[:, :most]
        return cls(labels.gather(1, places).clamp_min(0), wanted.gather(1, places), places)

    @property
    def count(self) -> int:
        """How many are to be predicted."""
        return int(self.wanted.sum())

    def of(self, logits: Tensor) -> Tensor:
        """The predictions among the logits of a batch, (B, T, V) -> (B, P, V)."""
        if self.places is None:
            return logits[:, :-1]
        places = self.places.to(logits.device)[..., None]
        return torch.take_along_dim(logits, places, dim=1)

    def nll(self, scores: Tensor) -> Tensor:
        """Negative log-likelihood of what stands there under logits (B, P, V), (B, P), nats, also where not wanted."""
        tokens = self.tokens.to(scores.device)
        lost = torch.nn.functional.cross_entropy(scores.flatten(0, 1), tokens.flatten(), reduction="none")
        return lost.view_as(tokens)

    def chosen(self, values: Tensor) -> Tensor:
        """What of (B, T, X) stands where the predictions do, of those that are wanted, (n, X); n is ``count``."""
        found = self.of(values)
        return found[self.wanted.to(found.device)]

    @property
    def chosen_tokens(self) -> Tensor:
        """The tokens that are wanted, (n,)."""
        return self.tokens[self.wanted]

    def summed_nll(self, scores: Tensor, rows: slice = slice(None)) -> float:
        """Negative log-likelihood of the wanted tokens ``rows`` under their logits (n, V), summed, nats."""
        tokens = self.chosen_tokens[rows].to(scores.device)
        return float(torch.nn.functional.cross_entropy(scores, tokens, reduction="none").double().sum())
