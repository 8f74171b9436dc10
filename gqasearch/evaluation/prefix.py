"""Losses of many converted models that differ in few layers.

A candidate that changes layers from l on shares its hidden states below l with every candidate that has
the same layers there: they are kept and the run goes on from them. A converted layer is kept too, so a
candidate costs what is new in it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeAlias

import numpy as np
from torch import Tensor

from gqasearch.calibration import TokenBlocks
from gqasearch.evaluation.recent import Recent
from gqasearch.grouping import Grouping, LayerGrouping
from gqasearch.models import LayerWeights, Parent, layers_replaced, run_from
from gqasearch.pairwise import FloatArray

# (batch, logits (B, T, V)) -> loss summed over the batch's targets, and (batch) -> how many they are.
SummedLoss: TypeAlias = Callable[[int, Tensor], float]
# (layer, its grouping) -> the converted layer in the parent's shape.
TiedLayer: TypeAlias = Callable[[int, LayerGrouping], LayerWeights]

HIDDEN_BYTES = 2**29
WEIGHT_BYTES = 2**29
MOST_LOSSES = 2**18


class PrefixLosses:
    """Mean loss per target of candidates, on all batches of ``blocks`` or on some.

    ``summed_loss``: of one batch's logits. ``batch_tokens``: tokens of every batch, (B,). ``tokens_run``: tokens that
    candidates were run on so far; ``layers_run``: tokens times the layers that were computed for them.
    """

    def __init__(
        self,
        parent: Parent,
        tied_layer: TiedLayer,
        blocks: TokenBlocks,
        batch_blocks: int,
        summed_loss: SummedLoss,
        *,
        hidden_bytes: int = HIDDEN_BYTES,
        weight_bytes: int = WEIGHT_BYTES,
    ) -> None:
        self.parent = parent
        self.batches = list(blocks.batches(batch_blocks))
        self.batch_tokens = tuple(int(mask.sum()) for _, mask in self.batches)
        self._targets = [targets.count for targets in blocks.targets(batch_blocks)]
        self.tokens_run = self.layers_run = 0
        self._losses: Recent[tuple[int, Grouping], float] = Recent(MOST_LOSSES, lambda _: 1)
        self._tied_layer = tied_layer
        self._summed_loss = summed_loss
        self._hidden: Recent[tuple[int, tuple[LayerGrouping, ...]], Tensor] = Recent(hidden_bytes, lambda t: t.nbytes)
        self._weights: Recent[tuple[int, LayerGrouping], LayerWeights] = Recent(weight_bytes, _bytes)

    def __call__(self, groupings: Sequence[Grouping], batches: Sequence[int]) -> FloatArray:
        """Mean loss of every grouping over these batches, (N,). Each is independent of the others."""
        count = sum(self._targets[batch] for batch in batches)
        # Batch by batch: what candidates share of one batch is used again before it is forgotten.
        columns = [[self._loss(grouping, batch) for grouping in groupings] for batch in batches]
        return np.array([sum(row) / count for row in zip(*columns, strict=True)], dtype=np.float64)

    def _loss(self, grouping: Grouping, batch: int) -> float:
        known = self._losses.get((batch, grouping))
        if known is None:
            known = self._run(grouping, batch)
            self._losses.put((batch, grouping), known)
        return known

    def _run(self, grouping: Grouping, batch: int) -> float:
        ids, mask = self.batches[batch]
        start, hidden = self._deepest(grouping.layers, batch)
        changed = {
            index: self._converted(index, layer)
            for index, layer in enumerate(grouping)
            if index >= start and layer.num_groups < layer.num_heads
        }
        with layers_replaced(self.parent, changed):
            logits, between = run_from(self.parent, ids, mask, start, hidden)
        for offset, state in enumerate(between[:-1]):
            self._hidden.put((batch, grouping.layers[: start + offset + 1]), state)
        self.tokens_run += self.batch_tokens[batch]
        self.layers_run += self.batch_tokens[batch] * (len(grouping) - start)
        return self._summed_loss(batch, logits.float())

    def _deepest(self, layers: tuple[LayerGrouping, ...], batch: int) -> tuple[int, Tensor | None]:
        """The highest layer that can be started at, and what enters it."""
        for start in range(len(layers) - 1, 0, -1):
            hidden = self._hidden.get((batch, layers[:start]))
            if hidden is not None:
                return start, hidden
        return 0, None

    def _converted(self, index: int, layer: LayerGrouping) -> LayerWeights:
        known = self._weights.get((index, layer))
        if known is None:
            known = self._tied_layer(index, layer)
            self._weights.put((index, layer), known)
        return known


def _bytes(layer: LayerWeights) -> int:
    parts = (layer.q, layer.k, layer.v, layer.o)
    return sum(part.nbytes for part in parts)
