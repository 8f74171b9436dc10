"""A text on its way up a model, a decoder layer at a time: a layer's weights are needed once for all of the text."""

from __future__ import annotations

import copy
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from gqasearch.calibration.blocks import TokenBlocks
from gqasearch.calibration.hidden_states import ROOM, TensorFiles
from gqasearch.models import Arguments, Parent, enter, quick_products, run_layer


@dataclass(frozen=True)
class AscentBatch:
    """``mask`` (B, T) bool, False on padding; with what every decoder layer is called besides hidden states, (L,)."""

    mask: Tensor
    arguments: tuple[Arguments, ...]


class Ascent:
    """What enters decoder layer ``level`` of ``parent``, (B, T, D) for every batch. No gradients.

    Where that takes more than ``room`` bytes it lies in ``folder``, a level in a folder of its own, and what a process
    that was killed leaves there the next one can go on from (``resume``).
    """

    def __init__(
        self, parent: Parent, blocks: TokenBlocks, batch_blocks: int, folder: Path, *, room: int = ROOM
    ) -> None:
        self.parent, self.level = parent, 0
        self.batches: list[AscentBatch] = []
        self._folder = folder / f"by-{batch_blocks}"  # states of other batches are of no use
        width = blocks.ids.numel() * parent.geometry.hidden_size * parent.model.dtype.itemsize
        self._room = room if width <= room else 0  # all in memory, or all on disk
        self.hidden = self._files(0)
        with parent.module_loaded(parent.model.get_input_embeddings()):
            for ids, mask in blocks.batches(batch_blocks):
                entered = enter(parent, ids, mask)
                before = self.batches[-1].arguments if self.batches else ()
                self.batches.append(AscentBatch(mask.to(parent.device), _shared(entered.arguments, before)))
                self.hidden.append(entered.hidden)

    def beside(self, folder: Path) -> Ascent:
        """Another stream of the same text, at the same level."""
        other = copy.copy(self)
        other._folder = folder / self._folder.name  # noqa: SLF001 - of the same class
        return other

    def call(self, batch: int, hidden: Tensor) -> Tensor:
        """Layer ``level`` on one batch, (B, T, D) -> (B, T, D)."""
        with quick_products(self.parent):
            return run_layer(self.parent, self.level, hidden, self.batches[batch].arguments[self.level])

    def advance(self, run: Callable[[int, Tensor], Tensor] | None = None) -> None:
        """Move past layer ``level``; ``run``: what gives its output, (batch, hidden) -> (B, T, D), if not ``call``."""
        risen = self._files(self.level + 1)
        for batch, hidden in enumerate(self.hidden):
            risen.append((run or self.call)(batch, hidden))
        if self._room == 0:
            risen.complete()
        self.hidden, self.level = risen, self.level + 1

    def follow(self, other: Ascent) -> None:
        """Take over where another stream of the same text is, a layer higher."""
        self.hidden, self.level = other.hidden, other.level

    def forget_below(self) -> None:
        """Remove what lies on disk of the levels below."""
        for path in self._levels():
            if int(path.name) < self.level:
                shutil.rmtree(path, ignore_errors=True)

    def resume(self, most: int) -> None:
        """Go on from the highest level up to ``most`` that an earlier process completed in the same folder, if any."""
        found = max((int(path.name) for path in self._levels() if TensorFiles.is_complete(path)), default=0)
        if self._room == 0 and self.level < found <= most:
            kinds = [(tensor.dtype, tensor.shape) for tensor in self.hidden]
            self.level, self.hidden = found, self._files(found)
            self.hidden.reopen(kinds)

    def _levels(self) -> list[Path]:
        return list(self._folder.glob("[0-9]*"))

    def _files(self, level: int) -> TensorFiles:
        return TensorFiles(self._folder / str(level), self._room, self.parent.device)


def _shared(arguments: Any, before: Any) -> Any:
    """``arguments``, with the tensors of ``before`` in the places where they hold the same values.

    Batches mostly have one mask and one set of positions, of a square of the length each.
    """
    if isinstance(arguments, Tensor):
        alike = isinstance(before, Tensor) and arguments.dtype == before.dtype and arguments.shape == before.shape
        return before if alike and torch.equal(arguments, before) else arguments
    if isinstance(arguments, dict):
        known = before if isinstance(before, dict) else {}
        return {name: _shared(value, known.get(name)) for name, value in arguments.items()}
    if isinstance(arguments, tuple | list) and type(arguments) in (tuple, list):
        others = (
            before if isinstance(before, tuple | list) and len(before) == len(arguments) else [None] * len(arguments)
        )
        return type(arguments)(_shared(one, other) for one, other in zip(arguments, others, strict=True))
    return arguments
