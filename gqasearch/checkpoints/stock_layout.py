"""The stock layout: symmetric where all groups have one size, else padded."""

from __future__ import annotations

from collections.abc import Callable

from gqasearch.checkpoints.deci import MOST_PADDING
from gqasearch.checkpoints.layout import Layout, added_weights, slots
from gqasearch.errors import UserError
from gqasearch.grouping import Grouping
from gqasearch.models import HeadGeometry


def stock_layout(grouping: Grouping, geometry: HeadGeometry, takes: Callable[[int], bool]) -> Layout:
    """Symmetric where all groups have one size, else padded."""
    counts = grouping.group_counts
    if len(set(counts)) > 1:
        raise UserError(
            "a stock checkpoint has one number of KV heads for all layers, but this grouping has "
            f"{min(counts)} to {max(counts)} (by layer: {', '.join(map(str, counts))}). Search with --kv-ratio or "
            "--kv-heads, which give every layer the same number, or write it with --layout auto"
        )
    largest, own = max(size for layer in grouping for size in layer.sizes), geometry.num_attention_heads
    room = _room(largest, counts[0] * geometry.queries_per_kv, own, takes)
    placed = tuple(slots(layer, room, geometry.queries_per_kv) for layer in grouping)
    heads = len(placed[0])
    if heads == own:
        reason = f"All groups have {largest} heads: query heads are reordered, none is added."
        return Layout("stock-symmetric", placed, counts, reason)
    reason = (
        f"Groups differ in size, the largest has {largest} heads: every group gets room for "
        f"{_that_many(room, largest)}, {heads} query heads in place of {own}, the added ones zero "
        f"({added_weights(heads, geometry):,} more parameters)."
    )
    return Layout("stock-padded", placed, counts, reason)


def _room(largest: int, queries: int, own: int, takes: Callable[[int], bool]) -> int:
    """Heads that every group gets room for; ``queries``: query heads that one more of them adds to a layer.

    The size of the largest group, or the next with which the architecture takes the layer; where there is none within
    ``MOST_PADDING`` times the source's heads, the largest, to be refused by the architecture's own words.
    """
    fitting = (room for room in range(largest, MOST_PADDING * own // queries + 1) if takes(room * queries))
    return next(fitting, largest)


def _that_many(room: int, largest: int) -> str:
    return "that many" if room == largest else f"{room}, the next number that this architecture takes"
