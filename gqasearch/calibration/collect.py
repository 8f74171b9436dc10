"""The calibration pass: the text goes up the parent once, and a layer's statistics are summed up as it passes.

Memory is bounded by one layer's weights and matrices and a batch, whatever the number of layers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from gqasearch.calibration.accumulator import LayerAccumulator
from gqasearch.calibration.ascent import Ascent
from gqasearch.calibration.blocks import TokenBlocks
from gqasearch.calibration.statistics import LayerStatistics
from gqasearch.errors import UserError
from gqasearch.models import LayerWeights, Parent, output_projection, stream_after

HIDDEN = "hidden"  # folder of the hidden states of a pass under way


def no_progress(done: int, total: int) -> None:
    """For callers that show nothing: ``done`` of ``total`` steps."""


@contextmanager
def eager_attention(parent: Parent) -> Iterator[None]:
    """Attention that returns its maps; the parent's own implementation is put back on leaving."""
    before = parent.model.config._attn_implementation  # noqa: SLF001 - transformers has no public getter
    _use_attention(parent.model, "eager")
    try:
        yield
    finally:
        _use_attention(parent.model, before)


def _use_attention(model: PreTrainedModel, implementation: str) -> None:
    if model._can_set_attn_implementation():  # noqa: SLF001 - else the setter warns and sets nothing
        model.set_attn_implementation(implementation)
    else:  # Falcon, whose attention reads the configuration at every call, as the masks do
        model.config._attn_implementation = implementation  # noqa: SLF001


def collect(
    parent: Parent,
    blocks: TokenBlocks,
    folder: Path,
    *,
    batch_blocks: int = 8,
    sample_tokens: int = 256,
    done: int = 0,
    progress: Callable[[int, int], None] = no_progress,
) -> Iterator[LayerStatistics]:
    """Yield the statistics of layer ``done``, ``done + 1``, ...; the text passes a layer when they are asked for.

    ``folder`` holds the text's hidden states where memory does not; ``done``: layers whose statistics an earlier
    process has, which left there where the text was. ``sample_tokens``: rows of x kept per layer. ``progress``:
    layers done, of all.
    """
    stride, layers = max(1, blocks.tokens // sample_tokens), parent.geometry.num_layers
    with torch.no_grad(), eager_attention(parent):
        text = Ascent(parent, blocks, batch_blocks, folder / HIDDEN)
    text.resume(done)
    while text.level < layers:
        index = text.level
        with torch.no_grad(), eager_attention(parent), parent.layer_loaded(index):
            if index < done:
                text.advance()
                continue
            weights = parent.layer(index)
            accumulator = LayerAccumulator(parent.geometry, weights, blocks.ids.shape[1], stride, sample_tokens)
            watched = _Watched(parent, index, accumulator, weights)
            with watched.hooked():
                text.advance(partial(_watch, text, watched))
        progress(text.level, layers)
        yield accumulator.result()
        text.forget_below()


def _watch(text: Ascent, watched: _Watched, batch: int, hidden: Tensor) -> Tensor:
    watched.mask, watched.stream = text.batches[batch].mask, hidden
    return text.call(batch, hidden)


class _Watched:
    """A layer whose accumulator is given what every call of its attention block reads and makes.

    ``mask`` (B, T) and ``stream`` (B, T, D): of the batch that the layer is about to be called on.
    """

    mask: Tensor
    stream: Tensor

    def __init__(self, parent: Parent, index: int, accumulator: LayerAccumulator, weights: LayerWeights) -> None:
        self._parent, self._index, self._weights = parent, index, weights
        self._accumulator, self._added = accumulator, torch.empty(0)

    @contextmanager
    def hooked(self) -> Iterator[None]:
        """Within the block the layer is watched."""
        attention = self._parent.model.get_submodule(self._parent.family.attention_path(self._index))
        handles = [
            output_projection(self._parent, self._index).register_forward_hook(self._after_projection),
            attention.register_forward_hook(self._after_attention, with_kwargs=True),
        ]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def _turns(self, positions: int, given: tuple[Tensor, Tensor] | None) -> tuple[Tensor, Tensor] | None:
        """Cosines and sines of RoPE, (T, r) each; ``given``: what the model told the layer, (B, T, r)."""
        family, config = self._parent.family, self._parent.config
        if given is None:
            return family.turns_of(positions, config)
        cosines, sines = given[0][0], given[1][0]
        if family.turns(self._index, config):
            return cosines, sines
        return torch.ones_like(cosines), torch.zeros_like(sines)

    def _after_projection(self, _module: torch.nn.Module, _args: tuple[Any, ...], output: Tensor) -> None:
        self._added = output

    def _after_attention(
        self, _module: torch.nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any
    ) -> None:
        hidden = kwargs["hidden_states"] if "hidden_states" in kwargs else args[0]
        maps = output[1]
        if maps is None:
            raise UserError("this model's attention does not return its maps; calibration needs them")
        with torch.autocast(hidden.device.type, enabled=False):
            if (turns := self._turns(hidden.shape[1], kwargs.get("position_embeddings"))) is not None:
                self._accumulator.set_turns(*turns, self._parent.geometry.rotary_dim)
            residual = stream_after(self._parent, self._index, self.stream.to(hidden.device), self._added)
            self._accumulator.add(hidden, maps, residual, self.mask.to(hidden.device), self._weights)
