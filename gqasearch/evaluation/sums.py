"""What is added up over a text for any number of models, layer by layer: the loop of all measures of quality."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from itertools import accumulate
from typing import Any, Generic, Protocol, TypedDict, TypeVar, Unpack

import torch
from torch import Tensor

from gqasearch.calibration import TokenBlocks
from gqasearch.evaluation.climb import climb
from gqasearch.evaluation.climb_state import ClimbState
from gqasearch.evaluation.runners import LayerStack


class AnyQuality(Protocol):
    """Means over the targets of a text, of one model."""

    @property
    def targets(self) -> int: ...

    def figures(self) -> dict[str, float]:
        """Every mean by the name that it has in metrics.json."""
        ...

    def by_block(self) -> tuple[str, tuple[float, ...]]:
        """The name of the one that is a distance to the parent, and its mean over every block, for paired tests."""
        ...


QualityT = TypeVar("QualityT", bound=AnyQuality)


class How(TypedDict, total=False):
    """How models go up through their layers.

    ``batch_blocks``: blocks of a batch, 8 if not given. ``hidden_bytes``: of the hidden states in memory; for more text
    than fits, every layer's weights are read again. ``state``: goes on where an earlier process with the same arguments
    left off. ``progress``: is given blocks that are done, and all.
    """

    batch_blocks: int
    hidden_bytes: int
    state: ClimbState | None
    progress: Callable[[int, int], None]


class Sums(ABC, Generic[QualityT]):
    """Of one model over the targets so far; made for a text of ``blocks`` blocks."""

    def __init__(self, blocks: int) -> None:
        self.distance = torch.zeros(blocks, dtype=torch.float64)  # to the parent, by block

    @staticmethod
    @abstractmethod
    def read(scores: Tensor) -> Tensor:
        """What ``add`` takes, from what a model gives, (n, V)."""

    @abstractmethod
    def add(self, reference: Tensor, found: Tensor, tokens: Tensor, blocks: Tensor) -> None:
        """Targets (n,) and their ``blocks`` (n,), and what was ``read`` of the parent and of this model, (n, V).

        One tensor for both where this is the parent.
        """

    @abstractmethod
    def record(self) -> dict[str, Any]:
        """As JSON, every bit of it."""

    @abstractmethod
    def restore(self, record: Mapping[str, Any]) -> None:
        """What ``record`` gave."""

    @abstractmethod
    def quality(self, targets: Tensor, bytes_per_token: float) -> QualityT:
        """``targets`` (N,): of every block."""

    def _mean_distance(self, targets: Tensor) -> tuple[float, tuple[float, ...]]:
        """Over all targets, and over those of every block."""
        per_block = (self.distance / targets.clamp_min(1)).tolist()
        return float(self.distance.sum()) / int(targets.sum()), tuple(per_block)


def summed(
    kind: type[Sums[QualityT]],
    parent: LayerStack,
    candidates: Mapping[str, LayerStack],
    blocks: TokenBlocks,
    **how: Unpack[How],
) -> tuple[QualityT, dict[str, QualityT]]:
    """Quality of the parent and of every candidate, which go up through their layers together (see ``climb``).

    All in the models' own dtype, float32 as a rule: products in bfloat16 add some 1e-4 to 3e-4 nats of noise to a model
    (measured at 3 M and 135 M parameters), which is seen in the third digit of a KL below a tenth.
    """
    batch_blocks, state = how.setdefault("batch_blocks", 8), how.get("state")
    stacks = [parent, *candidates.values()]
    counts = [targets.wanted.sum(1) for targets in blocks.targets(batch_blocks)]
    first = [0, *accumulate(map(len, counts))]  # the first block of every batch
    sums = [kind(first[-1]) for _ in stacks]
    if state is not None:
        for own, record in zip(sums, state.sums, strict=False):  # none at the beginning
            own.restore(record)
        state.note(lambda: [own.record() for own in sums])
    for found in climb(stacks, blocks, **how):
        parts = [kind.read(scores) for scores in found.scores]
        for own, part in zip(sums, parts, strict=True):
            own.add(parts[0], part, found.tokens, first[found.batch] + found.blocks)
    qualities = [own.quality(torch.cat(counts), blocks.bytes_per_token) for own in sums]
    return qualities[0], dict(zip(candidates, qualities[1:], strict=True))
