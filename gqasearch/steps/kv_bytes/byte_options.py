"""What a number of bytes allows: for every format of the cache, so many heads."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from gqasearch.config import KV_BYTES
from gqasearch.errors import UserError
from gqasearch.rounding import KVFormat, parse_formats
from gqasearch.steps.workspace import Workspace
from gqasearch.targets import PLAIN_FORMATS, TARGETS, UNROUNDED

DEFAULT_SHARE = 0.25  # of a front, where none is asked for
FRONT_SIZES = 12  # numbers of heads that a front has for each format
SLACK = 1e-9  # of a quotient that is a whole number but for rounding


def is_rounded(kv: KVFormat) -> bool:
    """Whether the cache holds less than the 16 bits that engines keep of every number."""
    return kv.name not in (UNROUNDED, "16")


@dataclass(frozen=True)
class Option:
    """A cache in the format ``kv`` with ``heads`` KV heads, of the size that they will have: in every layer, or in the
    whole model (``movable``).

    ``total``: of the whole model. ``bytes_per_token``: of the whole cache; ``share``: over the parent's in 16 bits.
    """

    kv: KVFormat
    heads: int
    movable: bool
    total: int
    bytes_per_token: float
    share: float

    def settings(self) -> dict[str, Any]:
        """What a configuration says to ask for this and no other."""
        counts = {"kv_budget": self.heads} if self.movable else {"kv_heads": self.heads}
        kv_bits = self.kv.name if is_rounded(self.kv) else None
        return {"kv_bits": kv_bits, "uneven": False, "kv_ratio": None, **counts}


@dataclass(frozen=True)
class Room:
    """Of the model of ``work``: its heads, as large as they will be, and what bounds their number."""

    layers: int
    most: int
    step: int
    head_dim: int
    whole: int
    context: int
    movable: bool

    @classmethod
    def of(cls, work: Workspace) -> Room:
        config, shape, own = work.config, work.source.geometry, work.unjoined.source.geometry
        return cls(
            layers=shape.num_layers,
            most=shape.num_kv_heads // config.join,
            step=config.tensor_parallel,
            head_dim=shape.head_dim,
            whole=2 * 2 * own.num_layers * own.num_kv_heads * own.head_dim,
            context=config.block_length,
            movable=config.uneven or KV_BYTES in config.objectives,
        )

    def of_head(self, kv: KVFormat) -> float:
        """Bytes per token of one key head and one value head."""
        return kv.bytes_per_token(1, 1, self.head_dim, self.context)

    def least(self, kv: KVFormat) -> float:
        """The share of the smallest cache."""
        return self.layers * self.step * self.of_head(kv) / self.whole

    def option(self, kv: KVFormat, heads: int) -> Option:
        total = heads if self.movable else heads * self.layers
        size = total * self.of_head(kv)
        return Option(kv, heads, self.movable, total, size, size / self.whole)

    def within(self, kv: KVFormat, share: float) -> int:
        """Most heads that fit; 0 where fewer fit than a model must have."""
        parts = 1 if self.movable else self.layers
        heads = int(share * self.whole / (parts * self.of_head(kv)) * (1 + SLACK))
        heads = min(heads, self.most * (self.layers if self.movable else 1)) // self.step * self.step
        return heads if heads >= self.step * (self.layers if self.movable else 1) else 0


def options_of(work: Workspace) -> list[Option]:
    """What the settings of ``work`` leave open, widest formats first; a front has several numbers of heads for each.

    Raises ``UserError`` where nothing fits, with the least share that would, and for what no cache can have.
    """
    config = work.config
    formats, room = formats_of(work), Room.of(work)
    if KV_BYTES in config.objectives:
        return [room.option(kv, heads) for kv in formats for heads in _ladder(room)]
    share = DEFAULT_SHARE if config.kv_bytes is None else config.kv_bytes
    found = [room.option(kv, heads) for kv in formats if (heads := _possible(work, room.within(kv, share)))]
    if not found:
        least = min(formats, key=room.least)
        raise UserError(
            f"--kv-bytes {share:g}: the smallest cache that this model can have takes {room.least(least):.4g} of the "
            f"bytes, {room.step} KV head{'s' if room.step > 1 else ''} in every layer in the format {least.name}"
        )
    return found


def formats_of(work: Workspace) -> list[KVFormat]:
    """Those that were asked for, or those of the target's that take the heads.

    Raises ``UserError`` for encoders, and for a format that was asked for and does not take the heads.
    """
    config, source = work.config, work.source
    if source.family.objective != "next-token":
        raise UserError(f"--kv-bytes: {source.directory} is an encoder, which caches nothing")
    head_dim = source.geometry.head_dim
    if config.formats is not None:
        formats = parse_formats(config.formats)
        for kv in formats:
            kv.check(head_dim)
        return formats
    names = PLAIN_FORMATS if config.target is None else TARGETS[config.target].formats
    return [kv for kv in parse_formats(names) if kv.refusal(head_dim) is None]


def _possible(work: Workspace, heads: int) -> int:
    """As many of these as groups of equal size can be, where they must."""
    total = work.source.geometry.num_kv_heads
    return next((n for n in range(heads, 0, -1) if total % n == 0), 0) if work.config.equal_sizes else heads


def _ladder(room: Room) -> Iterator[int]:
    """Numbers of heads of the whole model, from all of them down, each the same share of the one before."""
    most, least = room.most * room.layers, room.step * room.layers
    ratio = (least / most) ** (1 / max(1, FRONT_SIZES - 1))
    steps = dict.fromkeys(round(most * ratio**n / room.step) * room.step for n in range(FRONT_SIZES))
    yield from (heads for heads in steps if least <= heads <= most)


def non_dominated(values: Sequence[tuple[float, float]]) -> list[int]:
    """Indices of the pairs of which no other is as small in both, ties kept once, by the second."""
    found, lowest = [], float("inf")
    for index in sorted(range(len(values)), key=lambda i: (values[i][1], values[i][0], i)):
        if values[index][0] < lowest:
            lowest = values[index][0]
            found.append(index)
    return found
