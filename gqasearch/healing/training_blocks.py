"""The blocks that are trained on, in the order they are seen."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset

from gqasearch.calibration import Targets
from gqasearch.calibration.masking import masked
from gqasearch.healing.packing import PackedBlocks


@dataclass(frozen=True)
class Masks:
    """How the text of an encoder is masked: see ``gqasearch.calibration.masking``."""

    token: int
    special: tuple[int, ...]


@dataclass(frozen=True)
class TrainingBlocks(Dataset[dict[str, Tensor]]):
    """Row i is block ``order[first + i]``: what was trained on before ``first`` is not asked for again.

    A row: ``index`` (), which block; ``input_ids`` (T,); of an encoder ``labels`` (T,), with ids that are masked.
    """

    packed: PackedBlocks
    order: NDArray[np.int64]
    masks: Masks | None = None
    first: int = 0

    def __len__(self) -> int:
        return len(self.order) - self.first

    def __getitem__(self, row: int) -> dict[str, Tensor]:
        if not 0 <= row < len(self):
            raise IndexError(row)
        index = int(self.order[self.first + row])
        return {"index": torch.tensor(index), **self.inputs(index)}

    def inputs(self, index: int) -> dict[str, Tensor]:
        """What the model is given of one block, and asked."""
        ids = self.packed.blocks([index])
        if self.masks is None:
            return {"input_ids": ids[0]}
        hidden, labels = masked(ids, torch.ones_like(ids, dtype=torch.bool), self.masks.token, self.masks.special)
        return {"input_ids": hidden[0], "labels": labels[0]}

    def with_targets(self, numbers: NDArray[np.int64]) -> tuple[Tensor, Targets]:
        """These blocks of next-token text, (B, T), and their targets."""
        ids = self.packed.blocks(numbers)
        return ids, Targets.following(ids, torch.ones_like(ids, dtype=torch.bool))
