r"""Groupings: canonical partitions of the heads of every layer.

A *layer grouping* is a partition of one layer's KV heads. Two label vectors that name the same
partition are the same object here: equal, same hash, one cache entry.

    MHA, 4 heads        GQA, 2 groups {0,2} {1,3}
    q0 q1 q2 q3         q0 q2   q1 q3
    |  |  |  |           \ /     \ /
    k0 k1 k2 k3          k0      k1

Pure Python: nothing here imports torch or numpy.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import chain
from math import lcm


class GroupingError(ValueError):
    """The given groups are no partition of the heads, or do not fit the model."""


@dataclass(frozen=True)
class LayerGrouping:
    """A partition of heads ``0 .. H-1``; groups sorted inside and ordered by their first head.

    Build it with :meth:`from_groups` or :meth:`from_labels`; the constructor checks that ``groups``
    is canonical and raises :class:`GroupingError` otherwise.
    """

    groups: tuple[tuple[int, ...], ...]

    def __post_init__(self) -> None:
        heads = sorted(chain.from_iterable(self.groups))
        if not heads or heads != list(range(len(heads))) or not all(self.groups):
            raise GroupingError(_why_no_partition([list(group) for group in self.groups]))
        if self.groups != tuple(sorted(tuple(sorted(group)) for group in self.groups)):
            raise GroupingError(f"groups are not in canonical order: {self.groups}; use LayerGrouping.from_groups")

    @classmethod
    def from_groups(cls, groups: Iterable[Iterable[int]], num_heads: int | None = None) -> LayerGrouping:
        """The partition with these groups, given in any order."""
        listed = [list(group) for group in groups]
        heads = sorted(head for group in listed for head in group)
        count = len(heads) if num_heads is None else num_heads
        if heads != list(range(count)) or not heads or any(not group for group in listed):
            raise GroupingError(_why_no_partition(listed, num_heads))
        return cls._checked(_canonical(listed))

    @classmethod
    def from_labels(cls, labels: Sequence[int]) -> LayerGrouping:
        """The partition in which heads with the same label share a group; the labels' values do not matter."""
        groups: dict[int, list[int]] = {}
        for head, label in enumerate(labels):
            groups.setdefault(int(label), []).append(head)
        if not groups:
            raise GroupingError(_why_no_partition([]))
        return cls._checked(tuple(map(tuple, groups.values())))  # canonical by construction

    @classmethod
    def _checked(cls, groups: tuple[tuple[int, ...], ...]) -> LayerGrouping:
        """From groups known to be a canonical partition; searches make these by the million."""
        made = object.__new__(cls)
        object.__setattr__(made, "groups", groups)
        return made

    @classmethod
    def singletons(cls, num_heads: int) -> LayerGrouping:
        """Every head its own group: the unconverted layer."""
        return cls(tuple((head,) for head in range(num_heads)))

    @classmethod
    def neighbours(cls, num_heads: int, num_groups: int) -> LayerGrouping:
        """Consecutive heads share (the GQA paper's recipe); sizes differ by at most one."""
        if not 1 <= num_groups <= num_heads:
            raise GroupingError(f"number of groups must be in 1..{num_heads}, got {num_groups}")
        return cls.from_labels([head * num_groups // num_heads for head in range(num_heads)])

    @cached_property
    def labels(self) -> tuple[int, ...]:
        """Group of every head, (H,): the restricted growth string of the partition."""
        of = {head: label for label, group in enumerate(self.groups) for head in group}
        return tuple(of[head] for head in range(len(of)))

    @cached_property
    def num_heads(self) -> int:
        return sum(map(len, self.groups))

    @property
    def num_groups(self) -> int:
        return len(self.groups)

    @property
    def sizes(self) -> tuple[int, ...]:
        return tuple(len(group) for group in self.groups)

    @property
    def is_equal_cardinality(self) -> bool:
        """True when all groups have one size (EC)."""
        return len(set(self.sizes)) == 1

    @property
    def shares(self) -> bool:
        """Whether any heads share."""
        return self.num_groups < self.num_heads

    @property
    def keys(self) -> LayerGrouping:
        """The partition of the key heads: this one, which is of both."""
        return self

    @property
    def values(self) -> LayerGrouping:
        """The partition of the value heads: this one."""
        return self


@dataclass(frozen=True)
class Grouping:
    """A layer grouping for every layer of a model."""

    layers: tuple[LayerGrouping, ...]

    def __post_init__(self) -> None:
        if not self.layers:
            raise GroupingError("a grouping needs at least one layer")
        if len({layer.num_heads for layer in self.layers}) != 1:
            raise GroupingError(f"layers differ in their number of heads: {[la.num_heads for la in self.layers]}")

    @classmethod
    def uniform(cls, layer: LayerGrouping, num_layers: int) -> Grouping:
        """The same layer grouping in every layer."""
        return cls((layer,) * num_layers)

    @classmethod
    def from_labels(cls, labels: Sequence[Sequence[int]]) -> Grouping:
        return cls(tuple(LayerGrouping.from_labels(row) for row in labels))

    def __iter__(self) -> Iterator[LayerGrouping]:
        return iter(self.layers)

    def __len__(self) -> int:
        return len(self.layers)

    def replace_layer(self, index: int, layer: LayerGrouping) -> Grouping:
        return Grouping((*self.layers[:index], layer, *self.layers[index + 1 :]))

    @property
    def num_heads(self) -> int:
        return self.layers[0].num_heads

    @property
    def kv_heads_total(self) -> int:
        """The KV budget that this grouping uses: groups summed over layers."""
        return sum(layer.num_groups for layer in self.layers)

    @property
    def kv_ratio(self) -> float:
        return self.kv_heads_total / (len(self.layers) * self.num_heads)

    @property
    def group_counts(self) -> tuple[int, ...]:
        return tuple(layer.num_groups for layer in self.layers)

    def common_query_heads(self, queries_per_kv: int) -> int:
        """Fewest query heads that every layer can share out evenly among its groups, and have room for the largest.

        ``queries_per_kv``: query heads that every head of the source carries.
        """
        needed = max(layer.num_groups * max(layer.sizes) for layer in self) * queries_per_kv
        step = lcm(*self.group_counts)
        return -(-needed // step) * step

    def kv_bytes_per_token(self, head_dim: int, bytes_per_value: int) -> int:
        """Bytes of K and V cached for one token."""
        return 2 * self.kv_heads_total * head_dim * bytes_per_value


def _canonical(groups: Iterable[Iterable[int]]) -> tuple[tuple[int, ...], ...]:
    return tuple(sorted(tuple(sorted(int(head) for head in group)) for group in groups))


def _why_no_partition(groups: list[list[int]], num_heads: int | None = None) -> str:
    """One sentence that names the first thing wrong with these groups."""
    flat = [head for group in groups for head in group]
    if not flat:
        return "no heads given; a layer needs at least one group"
    if any(not group for group in groups):
        return f"group {next(i for i, group in enumerate(groups) if not group)} is empty"
    count = num_heads if num_heads is not None else max(len(flat), 1)
    outside = sorted({head for head in flat if not 0 <= head < count})
    if outside:
        return f"heads {outside} are outside 0..{count - 1}"
    twice = sorted({head for head in flat if flat.count(head) > 1})
    if twice:
        return f"heads {twice} stand in more than one group"
    missing = sorted(set(range(count)) - set(flat))
    return f"heads {missing} stand in no group"
