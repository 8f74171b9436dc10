"""Which layout a grouping gets: the one that most tools load, among those that can say it."""

from __future__ import annotations

from dataclasses import replace

from gqasearch.checkpoints.deci import SPARING_PADDING, deci_layout, deci_obstacle, deci_query_heads
from gqasearch.checkpoints.layout import Layout, added_weights, slots
from gqasearch.checkpoints.ragged import ragged_layout
from gqasearch.config import LayoutChoice
from gqasearch.errors import UserError
from gqasearch.grouping import Grouping
from gqasearch.models import Config, Family, HeadGeometry
from gqasearch.targets import TARGETS, Target, TargetName


def plan_layout(
    grouping: Grouping,
    geometry: HeadGeometry,
    layout: LayoutChoice = "auto",
    config: Config | None = None,
    target: TargetName | None = None,
) -> Layout:
    """The layout of this grouping.

    ``auto``: stock where all layers have one number of groups; else deci where its padding is small, else
    ragged. ``config``: the source's ``config.json``; None for a source that has every layout. ``target``: the engine
    that has to load it; None for no matter which.

    Raises ``UserError`` where the grouping, the source or the target has no such layout.
    """
    if target is None:
        return _plan(grouping, geometry, layout, config)
    engine = TARGETS[target]
    if layout == "auto" and len(set(grouping.group_counts)) > 1:
        layout = _uneven_layout(engine, grouping, config)
    planned = _plan(grouping, geometry, layout, config)
    if planned.name in engine.cannot:
        raise UserError(
            f"layout {planned.name} is not for target {target}: {engine.cannot[planned.name]}. Use --layout auto"
        )
    return replace(planned, reason=f"{planned.reason} For {'any engine' if target == 'any' else target}.")


def _uneven_layout(engine: Target, grouping: Grouping, config: Config | None) -> LayoutChoice:
    """What ``auto`` is for an engine where layers differ in their number of KV heads."""
    obstacle = None if config is None else deci_obstacle(config)
    if engine.takes_uneven and "ragged" not in engine.cannot:
        return "auto"
    if engine.takes_uneven and obstacle is None:
        return "deci"
    takes = "one number of KV heads for all layers"
    if engine.takes_uneven:
        takes = f"layers that differ as a DeciLM alone ({obstacle})"
    counts = ", ".join(map(str, grouping.group_counts))
    raise UserError(
        f"target {engine.name} takes {takes}, and this grouping has {counts} KV heads by layer. Search with "
        "--kv-ratio or --kv-heads, which give every layer the same number, or name another target"
    )


def _plan(grouping: Grouping, geometry: HeadGeometry, layout: LayoutChoice, config: Config | None) -> Layout:
    """``plan_layout`` for no target."""
    if layout == "ragged":
        return ragged_layout(grouping, geometry, config)
    obstacle = None if config is None else deci_obstacle(config)
    if layout == "deci":
        if obstacle is not None:
            raise UserError(f"layout deci: {obstacle}. Use --layout auto")
        return deci_layout(grouping, geometry)
    if layout == "stock" or len(set(grouping.group_counts)) == 1:
        return _stock_layout(grouping, geometry)
    if obstacle is not None:
        return ragged_layout(grouping, geometry, config, f", nor DeciLM ({obstacle})")
    heads, own = deci_query_heads(grouping, geometry), geometry.num_attention_heads
    if heads <= SPARING_PADDING * own:
        return deci_layout(grouping, geometry)
    more = f"{heads} query heads in place of {own}, {added_weights(heads, geometry):,} more parameters"
    return ragged_layout(grouping, geometry, config, f", nor DeciLM without much padding ({more})")


def plan_checkpoint(
    family: Family,
    config: Config,
    grouping: Grouping,
    layout: LayoutChoice = "auto",
    target: TargetName | None = None,
) -> Layout:
    """``plan_layout`` for a source; refuses, too, what the source's architecture has no form for."""
    family, config = family.written_as(config)
    geometry = family.geometry(config)
    planned = plan_layout(grouping, geometry, layout, config, target)
    family.grouped_config(config, planned.query_heads, planned.kv_heads, geometry.head_dim)
    return planned


def _stock_layout(grouping: Grouping, geometry: HeadGeometry) -> Layout:
    """Symmetric where all groups have one size, else padded."""
    counts = grouping.group_counts
    if len(set(counts)) > 1:
        raise UserError(
            "a stock checkpoint has one number of KV heads for all layers, but this grouping has "
            f"{min(counts)} to {max(counts)} (by layer: {', '.join(map(str, counts))}). Search with --kv-ratio or "
            "--kv-heads, which give every layer the same number, or write it with --layout auto"
        )
    largest = max(size for layer in grouping for size in layer.sizes)
    placed = tuple(slots(layer, largest, geometry.queries_per_kv) for layer in grouping)
    heads, own = len(placed[0]), geometry.num_attention_heads
    if heads == own:
        reason = f"All groups have {largest} heads: query heads are reordered, none is added."
        return Layout("stock-symmetric", placed, counts, reason)
    reason = (
        f"Groups differ in size, the largest has {largest} heads: every group gets room for that many, {heads} query "
        f"heads in place of {own}, the added ones zero ({added_weights(heads, geometry):,} more parameters)."
    )
    return Layout("stock-padded", placed, counts, reason)
