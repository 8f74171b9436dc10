"""Which layout a grouping gets: the one that most tools load, among those that can say it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial

from gqasearch.checkpoints.deci import SPARING_PADDING, deci_layout, deci_obstacle, deci_query_heads
from gqasearch.checkpoints.forms import LAYOUTS
from gqasearch.checkpoints.layout import Layout, added_weights
from gqasearch.checkpoints.ragged import RAGGED_MODULES, ragged_layout, stock_obstacle
from gqasearch.checkpoints.stock_layout import stock_layout
from gqasearch.errors import UserError
from gqasearch.grouping import Grouping
from gqasearch.layout_choice import LayoutChoice
from gqasearch.models import Config, Family, HeadGeometry
from gqasearch.models.family import joined_of
from gqasearch.models.layer_norms import called
from gqasearch.separate_grouping import AnyGrouping, SeparateGrouping
from gqasearch.targets import TARGETS, Target, TargetName


def plan_layout(
    grouping: AnyGrouping,
    geometry: HeadGeometry,
    layout: LayoutChoice = "auto",
    config: Config | None = None,
    target: TargetName | None = None,
    takes: Callable[[int], bool] = lambda _: True,
) -> Layout:
    """The layout of this grouping.

    ``auto``: stock where all layers have one number of groups; else deci where its padding is small, else
    ragged; of a source whose architecture has no grouped form always ragged. ``config``: the source's ``config.json``;
    None for a source that has every layout. ``target``: the engine that has to load it; None for no matter which.
    ``takes``: whether the architecture can have so many query heads; a padded layout gets room for more until it can.

    Raises ``UserError`` where the grouping, the source or the target has no such layout.
    """
    if isinstance(grouping, SeparateGrouping):
        return _plan_separate(grouping, geometry, layout, config, target)
    if target is None:
        return _plan(grouping, geometry, layout, config, takes)
    engine = TARGETS[target]
    _require_form(engine, config)
    if layout == "auto" and len(set(grouping.group_counts)) > 1:
        layout = _uneven_layout(engine, grouping, config)
    planned = _plan(grouping, geometry, layout, config, takes)
    architecture = "" if config is None else config["architectures"][0]
    why = engine.objection(planned.name, architecture)
    if why is not None:
        instead = "groups of equal size (--equal-sizes)" if planned.name == "stock-padded" else "--layout auto"
        raise UserError(f"layout {planned.name} is not for target {target}: {why}. Use {instead}")
    return _for_target(planned, target, config)


def _plan_separate(
    grouping: SeparateGrouping,
    geometry: HeadGeometry,
    layout: LayoutChoice,
    config: Config | None,
    target: TargetName | None,
) -> Layout:
    """Of keys and values that were grouped apart: ragged, which transformers loads."""
    why = "keys and values were grouped apart (--separate-kv), and it has one KV head, key and value, for every query"
    if layout not in ("auto", "ragged"):
        raise UserError(f"layout {layout}: {why}. Use --layout auto")
    if target not in (None, "transformers"):
        raise UserError(f"target {target}: {why}. Use --target transformers")
    return _for_target(ragged_layout(grouping, geometry, config), target, config)


def _for_target(planned: Layout, target: TargetName | None, config: Config | None) -> Layout:
    """The same, with the engine in its reason, and whether its kind of model was found to load there."""
    if target is None:
        return planned
    architecture = "" if config is None else called(config)
    known = not architecture or TARGETS[target].is_tested(architecture)
    name = "any engine" if target == "any" else target
    untried = "" if known else f" ({architecture} is not among the architectures that were found to load in it)"
    return replace(planned, reason=f"{planned.reason} For {name}{untried}.")


def _require_form(engine: Target, config: Config | None) -> None:
    """Raise ``UserError`` for a source that can be ragged alone where the engine loads nothing ragged."""
    _require_known(engine, config)
    obstacle, why = stock_obstacle(config), engine.cannot.get("ragged")
    if obstacle is not None and why is not None:
        raise UserError(
            f"target {engine.name} loads no converted checkpoint of this model: {obstacle}, so its layout is ragged, "
            f"and {why}. Use --target transformers"
        )


def _require_known(engine: Target, config: Config | None) -> None:
    """Raise ``UserError`` for an architecture of which the engine loads nothing, whatever the layout."""
    architecture = "" if config is None else config["architectures"][0]
    if config is not None and joined_of(config) > 1:
        why = engine.cannot_join or engine.cannot_pad.get(architecture)  # both are about the size of a head
        if why:
            raise UserError(
                f"target {engine.name} loads no heads that were joined: {why}. Leave --join out, or name another target"
            )
    if architecture in engine.cannot_load:
        raise UserError(
            f"target {engine.name} loads no converted {architecture}: {engine.cannot_load[architecture]}. "
            "Use --target transformers, or name another"
        )


def _uneven_layout(engine: Target, grouping: Grouping, config: Config | None) -> LayoutChoice:
    """What ``auto`` is for an engine where layers differ in their number of KV heads."""
    takes = _takes_no_uneven(engine, config)
    if takes is not None:
        counts = ", ".join(map(str, grouping.group_counts))
        raise UserError(f"target {engine.name} takes {takes}, this grouping has {counts} KV heads by layer. {_EVEN}")
    return "auto" if engine.uneven in (None, "ragged") else engine.uneven


def _takes_no_uneven(engine: Target, config: Config | None) -> str | None:
    """What an engine takes instead of layers that differ in their number of KV heads; None where it takes them."""
    if engine.uneven is None:
        return "one number of KV heads for all layers"
    form = LAYOUTS.make(engine.uneven)
    obstacle = None if config is None else form.obstacle(config)
    return None if obstacle is None else f"layers that differ as {form.words} alone ({obstacle})"


_EVEN = (
    "Search with --kv-ratio or --kv-heads, which give every layer the same number, and with a method that keeps it, or "
    "name another target"
)


def check_target(target: TargetName, family: Family, config: Config, *, uneven: bool, equal_sizes: bool) -> None:
    """Raise ``UserError`` where a search may end with a grouping of this source that ``target`` does not load.

    ``uneven``: layers may end with different numbers of groups; ``equal_sizes``: all groups have one size.
    """
    _, config = family.written_as(config)
    engine, architecture = TARGETS[target], config["architectures"][0]
    _require_form(engine, config)
    takes = _takes_no_uneven(engine, config) if uneven else None
    if takes is not None:
        raise UserError(f"target {target} takes {takes}. {_EVEN}")
    why = engine.objection("stock-padded", architecture)
    if why is not None and not (uneven or equal_sizes):
        raise UserError(
            f"target {target} loads no query-padded {architecture}: {why}. Search with --equal-sizes, or name another "
            "target"
        )


def _plan(
    grouping: Grouping,
    geometry: HeadGeometry,
    layout: LayoutChoice,
    config: Config | None,
    takes: Callable[[int], bool],
) -> Layout:
    """``plan_layout`` for no target."""
    if layout != "auto":
        form = LAYOUTS.make(layout)
        why_not = None if config is None else form.obstacle(config)
        if why_not is not None:
            raise UserError(f"layout {layout}: {why_not}. Use --layout auto")
        return form.plan(grouping, geometry, config, takes)
    if stock_obstacle(config) is not None:
        return ragged_layout(grouping, geometry, config)
    if len(set(grouping.group_counts)) == 1:
        return stock_layout(grouping, geometry, takes)
    obstacle = None if config is None else deci_obstacle(config)
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
    grouping: AnyGrouping,
    layout: LayoutChoice = "auto",
    target: TargetName | None = None,
) -> Layout:
    """``plan_layout`` for a source; refuses, too, what the source's architecture has no form for.

    ``auto`` is ragged where the architecture cannot be padded.
    """
    family, config = family.written_as(config)
    geometry = family.geometry(config)
    takes = partial(family.takes_query_heads, config)
    planned = plan_layout(grouping, geometry, layout, config, target, takes)
    try:
        family.grouped_config(config, planned.query_heads, planned.kv_heads, geometry.head_dim)
    except UserError:
        loads_ragged = target is None or "ragged" not in TARGETS[target].cannot
        if layout != "auto" or not loads_ragged or config["architectures"][0] not in RAGGED_MODULES:
            raise
        ragged = ragged_layout(grouping, geometry, config, ", and this architecture cannot be padded for them")
        return _for_target(ragged, target, config)
    return planned
