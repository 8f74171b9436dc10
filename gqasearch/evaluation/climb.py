"""A text goes up through several models, a layer at a time, and is predicted from by each.

All hidden states of as many batches as memory allows move up one layer, in every model, before the next layer is
looked at: weights that lie on disk are read once for these batches, and no two layers are in memory together. Models
that differ from the first only above some layer go up with it as far as there. Of the logits no more exist at a time
than of a few hundred tokens, and none of tokens that are no targets.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import islice
from typing import Any, TypeAlias

from torch import Tensor

from gqasearch.calibration import Targets, TokenBlocks, no_progress
from gqasearch.evaluation.climb_state import ClimbState
from gqasearch.evaluation.runners import LayerStack
from gqasearch.models.freed_memory import keep_freed_memory

# (batch, logits (n, V), which of the batch's targets they predict) -> loss summed over these.
SummedLoss: TypeAlias = Callable[[int, Tensor, slice], float]

# Of the hidden states that move together, over all models; weights are read again for what goes beyond.
HIDDEN_BYTES = 2**28


@dataclass(frozen=True)
class Predicted:
    """Some targets of one batch, n of them, as all models predict them.

    ``batch``: its number; ``rows``: which of its targets, counted as in ``Targets.chosen``; ``tokens`` (n,): what
    stands there; ``blocks`` (n,): the blocks of the batch that they are in; ``scores``: logits (n, V) float32, by
    model.
    """

    batch: int
    rows: slice
    tokens: Tensor
    blocks: Tensor
    scores: tuple[Tensor, ...]


@dataclass
class _Batch:
    """One batch on its way: by model, its hidden states (B, T, D) and what the layers are called with besides."""

    number: int
    targets: Targets
    hidden: list[Tensor]
    arguments: list[Any]

    @property
    def nbytes(self) -> int:
        """When all models have hidden states of their own."""
        return sum(hidden.nbytes for hidden in self.hidden) + sum(_distinct(self.arguments).values())


def climb(
    stacks: Sequence[LayerStack],
    blocks: TokenBlocks,
    batch_blocks: int,
    *,
    hidden_bytes: int = HIDDEN_BYTES,
    state: ClimbState | None = None,
    progress: Callable[[int, int], None] = no_progress,
) -> Iterator[Predicted]:
    """All targets of ``blocks``, batch by batch, as every one of ``stacks`` predicts them.

    What others share with the first is computed once. ``state``: where an earlier process with the same arguments left
    off; batches that are done there are not given again. ``progress``: is given blocks, those on their way in part.
    """
    keep_freed_memory()
    top = max(stack.num_layers for stack in stacks)
    numbered = enumerate(zip(blocks.batches(batch_blocks), blocks.targets(batch_blocks), strict=True))
    done = sum(len(targets.tokens) for _, (_, targets) in islice(numbered, state.batches if state else 0))
    while batches := _enter(stacks, numbered, hidden_bytes, state.last if state and state.level else None):
        count = sum(len(batch.targets.tokens) for batch in batches)
        for index in range(_resume(state, batches), top):
            _advance(stacks, batches, index)
            if state is not None:
                state.rest(index + 1, batches[0].number, [batch.hidden for batch in batches])
            progress(done + count * (index + 1) // (top + 1), len(blocks.ids))
        with ExitStack() as heads:
            for stack in stacks:
                heads.enter_context(stack.head_loaded())
            after = batches[-1].number + 1
            while batches:
                yield from _predictions(stacks, batches.pop(0))
        if state is not None:
            state.done(after)
        done += count
        progress(done, len(blocks.ids))


def _resume(state: ClimbState | None, batches: Sequence[_Batch]) -> int:
    """The layer that is next for these batches, which are as far as an earlier process took them."""
    if state is None or not state.level:
        return 0
    for batch in batches:
        batch.hidden[:] = [found.to(old) for found, old in zip(state.hidden(batch.number), batch.hidden, strict=True)]
    return state.level


def mean_loss(stack: LayerStack, blocks: TokenBlocks, batch_blocks: int, summed_loss: SummedLoss) -> float:
    """Mean over the targets of ``blocks``, of one model."""
    found = climb([stack], blocks, batch_blocks)
    total = sum(summed_loss(part.batch, part.scores[0], part.rows) for part in found)
    return total / sum(targets.count for targets in blocks.targets(batch_blocks))


def _enter(
    stacks: Sequence[LayerStack],
    numbered: Iterator[tuple[int, tuple[tuple[Tensor, Tensor], Targets]]],
    most_bytes: int,
    last: int | None,
) -> list[_Batch]:
    """The next batches, those below ``last`` or as many as fit and at least one, before the first layers.

    Models of one source enter as one.
    """
    taken: list[_Batch] = []
    sources = {id(stack.source): stack for stack in stacks}
    with ExitStack() as embeddings:
        for stack in sources.values():
            embeddings.enter_context(stack.embeddings_loaded())
        for number, ((ids, mask), targets) in numbered:
            entered = {key: stack.enter(ids, mask) for key, stack in sources.items()}
            found = [entered[id(stack.source)] for stack in stacks]
            taken.append(_Batch(number, targets, [one.hidden for one in found], [one.arguments for one in found]))
            most_bytes -= taken[-1].nbytes
            if number + 1 == last or (last is None and most_bytes < taken[-1].nbytes):
                break
    return taken


def _advance(stacks: Sequence[LayerStack], batches: Sequence[_Batch], index: int) -> None:
    """Past layer ``index``. The first model goes last, as others may leave its stream here."""
    alike = [number for number, stack in enumerate(stacks) if index < stack.shared_layers(stacks[0])]
    for number in reversed(range(len(stacks))):
        if index >= stacks[number].num_layers or (number and number in alike):
            continue
        with stacks[number].layer_loaded(index) as run:
            for batch in batches:
                batch.hidden[number] = run(batch.hidden[number], batch.arguments[number][index])
    for batch in batches:
        for number in alike:
            batch.hidden[number] = batch.hidden[0]


def _predictions(stacks: Sequence[LayerStack], batch: _Batch) -> Iterator[Predicted]:
    targets = batch.targets
    tokens, blocks = targets.chosen_tokens, targets.wanted.nonzero()[:, 0]
    hidden = [targets.chosen(one) for one in batch.hidden]
    most = min(stack.most_tokens(one.shape[-1]) for stack, one in zip(stacks, hidden, strict=True))
    parts = (stack.predictions(one, most) for stack, one in zip(stacks, hidden, strict=True))
    for found in zip(*parts, strict=True):
        rows = found[0][0]
        yield Predicted(batch.number, rows, tokens[rows], blocks[rows], tuple(scores for _, scores in found))


def _distinct(value: Any) -> dict[int, int]:
    """Bytes of every tensor at any depth of ``value``, by identity: layers share most of what they are called with."""
    if isinstance(value, Tensor):
        return {id(value): value.nbytes}
    parts = value.values() if isinstance(value, dict) else value if isinstance(value, tuple | list) else ()
    return {key: size for part in parts for key, size in _distinct(part).items()}
