"""What training minimises."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from gqasearch.calibration import Targets
from gqasearch.healing.attention_match import AttentionMatch
from gqasearch.healing.teacher import Teacher, masked_mean


@dataclass
class TrainingLoss:
    """The loss of a batch: KL divergence to the teacher, plus ``weight`` times the error of ``match`` if there is one.

    ``teacher``: None for the language-model loss, the negative log-likelihood of the text itself.
    """

    teacher: Teacher | None
    match: AttentionMatch | None = None
    weight: float = 0.0
    losses: list[Tensor] = field(default_factory=list)

    def __call__(self, model: nn.Module, inputs: Mapping[str, Tensor]) -> Tensor:
        """Mean loss over the targets of a batch."""
        ids = inputs["input_ids"]
        targets = targets_of(ids, inputs.get("labels"))
        scores = targets.of(model(input_ids=ids, use_cache=False).logits).float()
        if self.teacher is None:
            loss = masked_mean(targets.nll(scores), targets.wanted)
        else:
            loss = self.teacher.kl(inputs["index"], ids, targets, scores)
        if self.match is not None:
            loss = loss + self.weight * self.match.error()
        self.losses.append(loss.detach())  # no number yet: a GPU would have to be waited for
        return loss

    def mean_since(self) -> float | None:
        """Mean loss of this process since this was asked last; None where nothing was run."""
        mean = float(torch.stack(self.losses).mean()) if self.losses else None
        self.losses.clear()
        return mean


def targets_of(ids: Tensor, labels: Tensor | None) -> Targets:
    """What a batch of whole blocks (B, T) asks for."""
    if labels is not None:
        return Targets.labelled(labels)
    return Targets.following(ids, torch.ones_like(ids, dtype=torch.bool))
