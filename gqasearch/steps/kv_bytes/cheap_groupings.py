"""The groupings that options are compared on: of a cheap search, one for every number of heads."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from gqasearch.config import KV_RATIO
from gqasearch.errors import UserError
from gqasearch.grouping import Grouping
from gqasearch.searching import Generation, may_take_several
from gqasearch.steps import NoProgress, Workspace
from gqasearch.steps.kv_bytes.byte_options import Option
from gqasearch.steps.search import begun_search
from gqasearch.steps.search_problem import GUIDE


def cheap_settings(work: Workspace) -> dict[str, Any]:
    """Of a search that does not run the model: the run's own, or by the error of the merge where that does."""
    if all(fitness.needs != "forward" for fitness in work.fitnesses.values()):
        return {}
    own = work.config.method_parameters if work.config.method == "evolution" else {}
    return {"objectives": (GUIDE,), "fitness_parameters": {}, "method": "evolution", "method_parameters": own}


def groupings_of(work: Workspace, options: Sequence[Option]) -> dict[int, Grouping]:
    """The total number of heads -> the best candidate that a cheap search finds for it."""
    cheap = cheap_settings(work)
    first = options[0]
    some = work.settled({**cheap, **first.settings()})
    several = first.movable and len({option.total for option in options}) > 1
    if several and may_take_several(some.method):
        return _of_one_search(work, cheap, options)
    by_total = {option.total: option for option in options}
    return {
        total: _last(work.settled({**cheap, **option.settings()})).best.grouping for total, option in by_total.items()
    }


def _of_one_search(work: Workspace, cheap: dict[str, Any], options: Sequence[Option]) -> dict[int, Grouping]:
    """The whole curve of errors against heads, as the numbers of groups are free in it."""
    objectives = (*(cheap.get("objectives") or work.config.objectives), KV_RATIO)
    open_counts = {"kv_budget": None, "kv_bytes": None, "formats": None, "kv_bits": None, "uneven": False}
    front = _last(work.settled({**cheap, **open_counts, "objectives": objectives})).front
    found = {}
    for total in {option.total for option in options}:
        within = [one for one in front if one.grouping.kv_heads_total <= total]
        if not within:
            raise UserError(f"the search found no grouping of at most {total} KV heads")
        found[total] = min(within, key=lambda one: one.values).grouping
    return found


def _last(work: Workspace) -> Generation:
    """What the search of these settings ends with, shown to nobody; the run's limits are for its own search."""
    whole = work.settled({"max_evaluations": None, "max_seconds": None, "certify": False})
    whole.progress = NoProgress()
    with begun_search(whole) as search:
        *_, last = search.generations()
    return last
