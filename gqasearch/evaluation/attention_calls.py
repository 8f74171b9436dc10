"""Every attention block of the parent by itself: what it is given on a text, and what it gives."""

from __future__ import annotations

import shutil
import tempfile
import weakref
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from gqasearch.calibration import Ascent, TensorFiles, TokenBlocks
from gqasearch.calibration.hidden_states import ROOM
from gqasearch.evaluation.recent import Recent
from gqasearch.models import (
    LayerWeights,
    Parent,
    layers_replaced,
    output_projection,
    outputs_noted,
    run_layer,
    stream_after,
)

# Of the layers that are asked for again and again; others are called anew.
CALLS_BYTES = 2**28


@dataclass(frozen=True)
class _Call:
    """One call of an attention block: its arguments, what it added (tokens, D), and which tokens count.

    ``residual_energy``: of the residual stream just after it, ||r||^2 summed over these tokens.
    """

    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    output: Tensor
    mask: Tensor
    residual_energy: float


@dataclass(frozen=True)
class Attended:
    """One batch through a layer: ``output`` (tokens, D) is what the block gives, ``parent`` (tokens, D) what the
    parent's own gave.
    """

    output: Tensor
    parent: Tensor


class AttentionCalls:
    """The calls on ``blocks``, recorded when a layer is first asked for.

    Keeps what enters every layer up to there, tokens * D values each, in memory or from ``ROOM`` bytes on in files of
    a temporary folder, and the calls of the layers that were used last.
    """

    def __init__(
        self, parent: Parent, blocks: TokenBlocks, *, batch_blocks: int = 8, calls_bytes: int = CALLS_BYTES
    ) -> None:
        self.parent = parent
        folder = Path(tempfile.mkdtemp(prefix="gqasearch-attention-"))
        weakref.finalize(self, shutil.rmtree, folder, ignore_errors=True)
        self._stream = Ascent(parent, blocks, batch_blocks, folder, room=ROOM // parent.geometry.num_layers)
        self._entering: list[TensorFiles] = [self._stream.hidden]  # by layer, as far up as one was asked for
        self._calls: Recent[int, Sequence[_Call]] = Recent(calls_bytes, lambda calls: sum(map(_bytes, calls)))

    def residual_energy(self, index: int) -> float:
        """E||r||^2 of the parent's residual stream just after a layer's attention."""
        calls = self._calls_of(index)
        return sum(call.residual_energy for call in calls) / sum(len(call.output) for call in calls)

    def run(self, index: int, tied: LayerWeights) -> Iterator[Attended]:
        """A layer with other weights, in the parent's shape, on the parent's own inputs; padding is left out."""
        calls, projection = self._calls_of(index), output_projection(self.parent, index)
        with (
            torch.no_grad(),
            self.parent.layer_loaded(index),
            layers_replaced(self.parent, {index: tied}),
            outputs_noted(projection) as added,
        ):
            for call in calls:
                self._attention(index)(*call.args, **call.kwargs)
                yield Attended(added.pop()[call.mask], call.output)

    def _calls_of(self, index: int) -> Sequence[_Call]:
        known = self._calls.get(index)
        if known is None:
            with torch.no_grad():
                while len(self._entering) <= index:
                    with self.parent.layer_loaded(self._stream.level):
                        self._stream.advance()
                    self._entering.append(self._stream.hidden)
                known = self._record(index)
            self._calls.put(index, known)
        return known

    def _record(self, index: int) -> list[_Call]:
        """Pass the layer once, without its result."""
        calls: list[_Call] = []
        given: list[tuple[tuple[Any, ...], dict[str, Any]]] = []

        def note(_module: torch.nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            given.append((args, kwargs))

        handle = self._attention(index).register_forward_pre_hook(note, with_kwargs=True)
        try:
            with self.parent.layer_loaded(index), outputs_noted(output_projection(self.parent, index)) as added:
                for hidden, batch in zip(self._entering[index], self._stream.batches, strict=True):
                    run_layer(self.parent, index, hidden, batch.arguments[index])
                    residual = stream_after(self.parent, index, hidden, added[0])
                    energy = float(residual[batch.mask].double().square().sum())
                    calls.append(_Call(*given.pop(), added.pop()[batch.mask], batch.mask, energy))
        finally:
            handle.remove()
        return calls

    def _attention(self, index: int) -> torch.nn.Module:
        return self.parent.model.get_submodule(self.parent.family.attention_path(index))


def _bytes(call: _Call) -> int:
    """Of what belongs to this call alone: its input is as large as its output, padding apart."""
    return 2 * call.output.nbytes
