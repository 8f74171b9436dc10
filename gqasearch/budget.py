"""KV budgets: how many groups a search may use, in one layer or in the whole model."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from gqasearch.errors import UserError


class Geometry(Protocol):
    """The head counts of a model; ``gqasearch.models.HeadGeometry`` is one."""

    @property
    def num_layers(self) -> int: ...
    @property
    def num_attention_heads(self) -> int: ...
    @property
    def num_kv_heads(self) -> int: ...
    @property
    def head_dim(self) -> int: ...


@dataclass(frozen=True)
class Budget:
    """Groups for every layer, and whether they may move between layers.

    ``counts``: groups per layer, (L,). ``movable``: True when only the sum is fixed, so a search may
    take a group from one layer and give it to another.
    ``smallest_group`` and ``largest_group`` bound the group sizes; both equal to H/G means EC. ``count_step``: groups
    of every layer are a multiple of it, and no layer has more than ``most_groups``.
    """

    counts: tuple[int, ...]
    num_heads: int
    movable: bool = False
    smallest_group: int = 1
    largest_group: int | None = None
    count_step: int = 1
    most_groups: int | None = None

    def __post_init__(self) -> None:
        largest = self.num_heads if self.largest_group is None else self.largest_group
        for layer, count in enumerate(self.counts):
            if not 1 <= count <= self.num_heads:
                raise UserError(f"groups of layer {layer} must be in 1..{self.num_heads}, got {count}")
            if self.most_groups is not None and count > self.most_groups:
                raise UserError(f"groups of layer {layer} must be at most {self.most_groups}, got {count}")
            if count % self.count_step:
                raise UserError(f"groups of layer {layer} must be a multiple of {self.count_step}, got {count}")
            if not count * self.smallest_group <= self.num_heads <= count * largest:
                raise UserError(
                    f"layer {layer}: {self.num_heads} heads cannot be split into {count} groups of "
                    f"{self.smallest_group} to {largest} heads; change --max-group-size or the budget"
                )

    @property
    def total(self) -> int:
        return sum(self.counts)

    @property
    def is_identity(self) -> bool:
        """Whether every head keeps a group of its own."""
        return self.total == len(self.counts) * self.num_heads

    @property
    def has_equal_sizes(self) -> bool:
        """Whether all groups of a layer have one size in every grouping within it, asked for or not."""
        heads = self.num_heads
        return not self.movable and all(count in (1, heads) or count * self.largest == heads for count in self.counts)

    @property
    def largest(self) -> int:
        """Largest allowed group size."""
        return self.num_heads if self.largest_group is None else self.largest_group


def require_several_heads(geometry: Geometry) -> None:
    """Raise ``UserError`` for a model of which nothing can be merged."""
    if geometry.num_kv_heads == 1:
        raise UserError(
            f"all {geometry.num_attention_heads} query heads of this model share one KV head already: there is nothing "
            "to merge"
        )


def counts_from_ratio(ratio: float, num_layers: int, num_heads: int, step: int = 1) -> tuple[int, ...]:
    """The same number of groups in every layer, the multiple of ``step`` nearest to ``ratio`` of the heads, not 0."""
    _check_ratio(ratio)
    groups = step * min(max(1, round(ratio * num_heads / step)), num_heads // step)
    return (groups,) * num_layers


def counts_from_model_ratio(ratio: float, num_layers: int, num_heads: int, step: int = 1) -> tuple[int, ...]:
    """As many groups as are nearest to ``ratio`` of the whole model's heads, spread evenly; multiples of ``step``."""
    _check_ratio(ratio)
    units = min(max(num_layers, round(ratio * num_layers * num_heads / step)), num_layers * (num_heads // step))
    return counts_from_total(step * units, num_layers, num_heads, step)


def counts_from_heads(groups: int, num_layers: int, num_heads: int) -> tuple[int, ...]:
    """``groups`` KV heads in every layer."""
    if not 1 <= groups <= num_heads:
        raise UserError(f"--kv-heads must be in 1..{num_heads}, got {groups}")
    return (groups,) * num_layers


def counts_from_total(total: int, num_layers: int, num_heads: int, step: int = 1) -> tuple[int, ...]:
    """``total`` KV heads, ``step`` at a time, spread as evenly as they go; layers near the input get the remainder."""
    low, high = num_layers * step, num_layers * (num_heads // step) * step
    if not low <= total <= high or total % step:
        what = f"in {low}..{high}" if step == 1 else f"a multiple of {step} in {low}..{high}"
        raise UserError(f"--kv-budget must be {what}, got {total}")
    even, rest = divmod(total // step, num_layers)
    return tuple(step * (even + (layer < rest)) for layer in range(num_layers))


def check_equal(counts: tuple[int, ...], heads: int) -> None:
    """Raise ``UserError`` unless ``heads`` heads can form these groups, as many in every layer, of equal size."""
    if len(set(counts)) > 1:
        raise UserError("equal_sizes needs one number of groups for all layers; use kv_ratio or kv_heads")
    if heads % counts[0]:
        fits = [g for g in range(1, heads + 1) if heads % g == 0]
        raise UserError(f"{heads} heads cannot form {counts[0]} groups of equal size; {fits} are possible")


def counts_of_two(
    wanted: float, num_layers: int, num_heads: int, step: int = 1, *, exactly: bool = False
) -> tuple[int, ...]:
    """G groups in some layers and 2 G in the others, ``wanted`` in all, or as near as there is.

    G is a multiple of ``step``: of those that come as near, the one with the most even split. ``exactly``: raise
    ``UserError`` where the sum would be another.
    """
    many = range(1, num_layers)  # layers with 2 G
    choices = [(g, n) for g in range(step, num_heads // 2 + 1, step) for n in many]
    if not choices:
        raise UserError(
            f"layout mimo needs two layers at least, and {2 * step} KV heads in some of them; this model has "
            f"{num_layers} layers of {num_heads} KV heads"
        )
    groups, twice = min(
        choices,
        key=lambda choice: (abs(choice[0] * (num_layers + choice[1]) - wanted), abs(2 * choice[1] - num_layers)),
    )
    if exactly and groups * (num_layers + twice) != wanted:
        raise UserError(
            f"layout mimo has G KV heads in some layers and 2 G in the others: {wanted:g} in {num_layers} layers is no "
            f"such sum, {groups * (num_layers + twice)} is one"
        )
    return tuple(2 * groups if layer < twice else groups for layer in range(num_layers))


def _check_ratio(ratio: float) -> None:
    if not 0 < ratio <= 1:
        raise UserError(f"--kv-ratio must be above 0 and at most 1, got {ratio:g}")
