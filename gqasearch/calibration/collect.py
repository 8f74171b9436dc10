"""The calibration pass: run the parent over the text once and accumulate every layer's statistics.

Accumulators live in one memory-mapped file per layer, so that memory is bounded by one layer's
matrices and a batch, whatever the number of layers; the operating system writes the rest to disk.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from gqasearch.calibration.accumulator import LayerAccumulator
from gqasearch.calibration.blocks import TokenBlocks
from gqasearch.calibration.statistics import LayerStatistics
from gqasearch.errors import UserError
from gqasearch.models import Parent, output_projection, stream_after


def no_progress(done: int, total: int) -> None:
    """For callers that show nothing: ``done`` of ``total`` blocks."""


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
    progress: Callable[[int, int], None] = no_progress,
) -> Iterator[LayerStatistics]:
    """Yield the statistics of layer 0, 1, ... after one pass over ``blocks``.

    ``folder`` holds the accumulators while it runs. ``sample_tokens``: rows of x kept per layer.
    """
    geometry = parent.geometry
    stride = max(1, blocks.tokens // sample_tokens)
    accumulators = [
        LayerAccumulator(
            folder / f"layer_{index:03d}.bin",
            geometry,
            parent.layer(index),
            blocks.ids.shape[1],
            stride,
            sample_tokens,
        )
        for index in range(geometry.num_layers)
    ]
    running = _Running()
    handles = [
        handle for index in range(geometry.num_layers) for handle in _hooks(parent, index, accumulators[index], running)
    ]
    try:
        with eager_attention(parent), torch.no_grad():
            done = 0
            for ids, mask in blocks.batches(batch_blocks):
                running.mask = mask.to(parent.device)
                parent.model(
                    input_ids=ids.to(parent.device), attention_mask=mask.long().to(parent.device), use_cache=False
                )
                done += len(ids)
                progress(done, len(blocks.ids))
    finally:
        for handle in handles:
            handle.remove()
    for accumulator in accumulators:
        yield accumulator.result()


@dataclass
class _Running:
    """What the hooks of one batch share: its mask (B, T), the stream that enters the layer, and what attention adds."""

    mask: Tensor = field(default_factory=lambda: torch.empty(0))
    stream: Tensor = field(default_factory=lambda: torch.empty(0))
    added: Tensor = field(default_factory=lambda: torch.empty(0))


def _hooks(parent: Parent, index: int, accumulator: LayerAccumulator, running: _Running) -> list[Any]:
    path = parent.family.attention_path(index)
    attention, block = parent.model.get_submodule(path), parent.model.get_submodule(path.rpartition(".")[0])

    def before_block(_module: torch.nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        running.stream = kwargs["hidden_states"] if "hidden_states" in kwargs else args[0]

    def after_projection(_module: torch.nn.Module, _args: tuple[Any, ...], output: Tensor) -> None:
        running.added = output

    def after_attention(_module: torch.nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
        hidden = kwargs["hidden_states"] if "hidden_states" in kwargs else args[0]
        maps = output[1]
        if maps is None:
            raise UserError("this model's attention does not return its maps; calibration needs them")
        if kwargs.get("position_embeddings") is not None:
            cosines, sines = kwargs["position_embeddings"]
            accumulator.set_turns(cosines[0], sines[0])
        residual = stream_after(parent, index, running.stream, running.added)
        accumulator.add(hidden, maps, residual, running.mask, parent.layer(index))

    return [
        block.register_forward_pre_hook(before_block, with_kwargs=True),
        output_projection(parent, index).register_forward_hook(after_projection),
        attention.register_forward_hook(after_attention, with_kwargs=True),
    ]
