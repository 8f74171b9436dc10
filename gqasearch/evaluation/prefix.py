"""Losses of many converted models that differ in few layers.

Candidates go up through the parent together, a layer at a time: what has the same layers below is one hidden state,
and the weights of a layer are read once for all. A candidate that changes layers from l on shares its hidden states
below l with every candidate of earlier calls that has the same layers there, too: they are kept and the run goes on
from them. A converted layer is kept as well, so a candidate costs what is new in it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from typing import TypeAlias

import numpy as np
import torch
from torch import Tensor

from gqasearch.calibration import TokenBlocks
from gqasearch.evaluation.candidate_state import CandidateState, Pair, Passed
from gqasearch.evaluation.climb import SummedLoss
from gqasearch.evaluation.recent import Recent
from gqasearch.evaluation.runners import ParentLayers
from gqasearch.models import Entered, LayerWeights, Parent, layers_replaced, run_layer, run_rounded_layer
from gqasearch.models.freed_memory import keep_freed_memory
from gqasearch.pairwise import FloatArray
from gqasearch.rounding import KVFormat
from gqasearch.separate_grouping import AnyGrouping, AnyLayer, grouping_of

# (layer, its grouping) -> the converted layer in the parent's shape.
TiedLayer: TypeAlias = Callable[[int, AnyLayer], LayerWeights]

HIDDEN_BYTES = 2**29
WEIGHT_BYTES = 2**29
MOST_LOSSES = 2**18


class PrefixLosses:
    """Mean loss per target of candidates, on all batches of ``blocks`` or on some.

    ``batch_tokens``: tokens of every batch, (B,). ``tokens_run``: tokens that candidates were run on so far;
    ``layers_run``: tokens times the layers that were computed for them. ``hidden_bytes``: of the hidden states that are
    kept, and as much again of those on their way up (of one candidate at least); ``weight_bytes``: of converted layers.
    ``state``: what an earlier process knew of the same parent, layers, text and loss. ``kv``: how the candidates'
    caches are rounded, in all layers; None for not. ``whole_too``: ``tied_layer`` changes layers that share nothing.
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
        state: CandidateState | None = None,
        kv: KVFormat | None = None,
        whole_too: bool = False,
    ) -> None:
        self._whole_too = whole_too
        self.parent, self._model = parent, ParentLayers(parent)
        self._run_layer = run_layer if kv is None else partial(run_rounded_layer, kv=kv)
        self.batches = list(blocks.batches(batch_blocks))
        self.batch_tokens = tuple(int(mask.sum()) for _, mask in self.batches)
        self._targets = list(blocks.targets(batch_blocks))
        self.tokens_run = self.layers_run = 0
        self._losses: Recent[Pair, float] = Recent(MOST_LOSSES, lambda _: 1)
        self._tied_layer = tied_layer
        self._summed_loss = summed_loss
        self._hidden: Recent[Passed, Tensor] = Recent(hidden_bytes, lambda t: t.nbytes)
        self._weights: Recent[tuple[int, AnyLayer], LayerWeights] = Recent(weight_bytes, _bytes)
        self._state = state
        for passed, hidden in state.hidden() if state else ():
            self._hidden.put(passed, hidden.to(parent.device))

    def __call__(self, groupings: Sequence[AnyGrouping], batches: Sequence[int]) -> FloatArray:
        """Mean loss of every grouping over these batches, (N,). Each is independent of the others."""
        keep_freed_memory()
        # In the order of their layers: where not all go up at once, those do that share the lowest.
        candidates = sorted(set(groupings), key=_groups)
        known = {(batch, one): self._known((batch, one)) for batch in batches for one in candidates}
        found = {pair: loss for pair, loss in known.items() if loss is not None}
        for pairs in self._together(pair for pair in known if pair not in found):
            new = dict(self._run(pairs))
            found |= new
            for pair, loss in new.items():
                self._losses.put(pair, loss)
            if self._state is not None:
                self._state.add(new.items())
        count = sum(self._targets[batch].count for batch in batches)
        sums = [sum(found[batch, grouping] for batch in batches) for grouping in groupings]
        return np.array(sums, dtype=np.float64) / count

    def _known(self, pair: Pair) -> float | None:
        loss = self._losses.get(pair)
        return self._state.loss(pair) if loss is None and self._state is not None else loss

    def _together(self, pairs: Iterable[Pair]) -> Iterator[list[Pair]]:
        """As many as have room for a hidden state before a layer and one after it, at least one."""
        taken: list[Pair] = []
        room = self._hidden.most_bytes
        for batch, grouping in pairs:
            values = self.batches[batch][0].numel() * self.parent.geometry.hidden_size
            needed = 2 * values * self.parent.model.dtype.itemsize
            if taken and needed > room:
                yield taken
                taken, room = [], self._hidden.most_bytes
            taken.append((batch, grouping))
            room -= needed
        if taken:
            yield taken

    def _run(self, pairs: Sequence[Pair]) -> Iterator[tuple[Pair, float]]:
        """Losses of these, each summed over the targets of its batch."""
        layers = self.parent.geometry.num_layers
        with self._model.embeddings_loaded():
            entered = {batch: self._model.enter(*self.batches[batch]) for batch in {batch for batch, _ in pairs}}
        entering: list[dict[Passed, Tensor]] = [{} for _ in range(layers)]  # states that a run begins with, by layer
        wanted: list[dict[Passed, None]] = [{} for _ in range(layers)]  # what has to leave each layer, in order
        for batch, grouping in pairs:
            start, hidden = self._deepest(batch, grouping.layers)
            before = (batch, grouping.layers[:start])
            entering[start][before] = entered[batch].hidden if hidden is None else hidden
            for index in range(start, layers):
                wanted[index][batch, grouping.layers[: index + 1]] = None
            self.tokens_run += self.batch_tokens[batch]
        states: dict[Passed, Tensor] = {}
        for index in range(layers):
            states |= entering[index]
            entering[index] = {}
            states = self._advance(index, states, list(wanted[index]), entered)
            if self._state is not None and states and index + 1 < layers:
                self._state.rest(index + 1, states)
        with self._model.head_loaded():
            for batch, layers_passed in list(states):
                hidden = self._targets[batch].chosen(states.pop((batch, layers_passed)))
                parts = self._model.predictions(hidden, self._model.most_tokens(hidden.shape[-1]))
                loss = sum(self._summed_loss(batch, scores, rows) for rows, scores in parts)
                yield (batch, grouping_of(layers_passed)), loss

    def _deepest(self, batch: int, layers: tuple[AnyLayer, ...]) -> tuple[int, Tensor | None]:
        """The highest layer that can be started at, and what enters it; None below the first."""
        for start in range(len(layers) - 1, 0, -1):
            hidden = self._hidden.get((batch, layers[:start]))
            if hidden is not None:
                return start, hidden
        return 0, None

    def _advance(
        self, index: int, states: dict[Passed, Tensor], wanted: Sequence[Passed], entered: Mapping[int, Entered]
    ) -> dict[Passed, Tensor]:
        """What leaves layer ``index``, ``wanted``. Every state that enters it is gone with its last use."""
        by_layer: dict[AnyLayer, list[Passed]] = {}
        for batch, passed in wanted:
            by_layer.setdefault(passed[-1], []).append((batch, passed))
        uses = Counter((batch, passed[:-1]) for batch, passed in wanted)
        found: dict[Passed, Tensor] = {}
        with torch.no_grad(), self.parent.layer_loaded(index):
            for layer, alike in by_layer.items():
                with layers_replaced(self.parent, self._converted(index, layer)):
                    for batch, passed in alike:
                        before = (batch, passed[:-1])
                        uses[before] -= 1
                        hidden = states[before] if uses[before] else states.pop(before)
                        arguments = entered[batch].arguments[index]
                        found[batch, passed] = self._run_layer(self.parent, index, hidden, arguments)
                        self.layers_run += self.batch_tokens[batch]
                        if index + 1 < self.parent.geometry.num_layers:
                            self._hidden.put((batch, passed), found[batch, passed])
        return found

    def _converted(self, index: int, layer: AnyLayer) -> dict[int, LayerWeights]:
        """The layer in the parent's shape, by its number; nothing for one that is left as it is."""
        if not (layer.shares or self._whole_too):
            return {}
        known = self._weights.get((index, layer))
        if known is None:
            known = self._tied_layer(index, layer)
            self._weights.put((index, layer), known)
        return {index: known}


def _groups(grouping: AnyGrouping) -> list[object]:
    return [(layer.keys.groups, layer.values.groups) for layer in grouping]


def _bytes(layer: LayerWeights) -> int:
    parts = (layer.q, layer.k, layer.v, layer.o)
    return sum(part.nbytes for part in parts)
