r"""Keys and values grouped apart: two partitions of every layer's heads.

    MHA, 4 heads          keys {0,2} {1,3}          values {0,1} {2,3}
    q0 q1 q2 q3           q0 q2   q1 q3             q0 q1   q2 q3
    |  |  |  |             \ /     \ /               \ /     \ /
    kv kv kv kv            k0      k1                v0      v1

Pure Python: nothing here imports torch or numpy.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal, TypeAlias

from gqasearch.grouping import Grouping, GroupingError, LayerGrouping

Side: TypeAlias = Literal["keys", "values"]
SIDES: tuple[Side, Side] = ("keys", "values")


@dataclass(frozen=True)
class SeparateLayer:
    """Two partitions of one layer's heads: which of them share a key head, and which share a value head.

    A ``LayerGrouping`` read through ``keys`` and ``values`` is one in which both are the same.
    """

    keys: LayerGrouping
    values: LayerGrouping

    def __post_init__(self) -> None:
        if self.keys.num_heads != self.values.num_heads:
            raise GroupingError(f"keys group {self.keys.num_heads} heads, values {self.values.num_heads}")

    @classmethod
    def of_side(cls, side: Side, layer: LayerGrouping) -> SeparateLayer:
        """Heads that share on one side alone."""
        whole = LayerGrouping.singletons(layer.num_heads)
        return cls(layer, whole) if side == "keys" else cls(whole, layer)

    @property
    def num_heads(self) -> int:
        return self.keys.num_heads

    @property
    def shares(self) -> bool:
        """Whether any heads share, on either side."""
        return self.keys.shares or self.values.shares


@dataclass(frozen=True)
class SeparateGrouping:
    """Two partitions for every layer of a model, of its key heads and of its value heads."""

    layers: tuple[SeparateLayer, ...]

    def __post_init__(self) -> None:
        self.sides  # noqa: B018 - for its errors

    @classmethod
    def from_sides(cls, sides: Grouping) -> SeparateGrouping:
        """From partitions in the order keys of layer 0, values of layer 0, keys of layer 1, ..., (2 L,).

        That is how a search sees them, for which each is a layer of its own.
        """
        if len(sides) % 2:
            raise GroupingError(f"{len(sides)} partitions are no two for every layer")
        return cls(tuple(map(SeparateLayer, sides.layers[::2], sides.layers[1::2])))

    @cached_property
    def sides(self) -> Grouping:
        """The partitions in the order of ``from_sides``, (2 L,)."""
        return Grouping(tuple(side for layer in self.layers for side in (layer.keys, layer.values)))

    def __iter__(self) -> Iterator[SeparateLayer]:
        return iter(self.layers)

    def __len__(self) -> int:
        return len(self.layers)

    @property
    def num_heads(self) -> int:
        return self.layers[0].num_heads

    @property
    def kv_heads_total(self) -> int:
        """Key heads and value heads, each counted, summed over layers."""
        return self.sides.kv_heads_total

    @property
    def kv_ratio(self) -> float:
        return self.sides.kv_ratio

    def kv_bytes_per_token(self, head_dim: int, bytes_per_value: int) -> int:
        """Bytes of K and V cached for one token."""
        return self.kv_heads_total * head_dim * bytes_per_value


# What conversion takes: one partition of a layer's heads, or two.
AnyLayer: TypeAlias = LayerGrouping | SeparateLayer
AnyGrouping: TypeAlias = Grouping | SeparateGrouping


def changed_layers(grouping: AnyGrouping) -> list[int]:
    """The layers in which heads share."""
    layers: Sequence[AnyLayer] = grouping.layers
    return [index for index, layer in enumerate(layers) if layer.shares]


def grouping_of(layers: Sequence[AnyLayer]) -> AnyGrouping:
    """The grouping with these layers, all of one kind."""
    one = tuple(layer for layer in layers if isinstance(layer, LayerGrouping))
    two = tuple(layer for layer in layers if isinstance(layer, SeparateLayer))
    if one and two:
        raise GroupingError("some layers have one partition of their heads and some have two")
    return SeparateGrouping(two) if two else Grouping(one)
