"""The winners of every fitness, as ordinary runs, and the best groupings that their searches met."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from gqasearch.comparison.comparison_config import NO_SEARCH, ComparisonConfig
from gqasearch.comparison.comparison_folder import TOP, ComparisonFolder
from gqasearch.comparison.conditions import Condition, Entry
from gqasearch.comparison.samples import (
    Met,
    Sampled,
    WatchedProblem,
    read_sample,
    together,
    top_of_layers,
    top_of_values,
    write_sample,
)
from gqasearch.errors import UserError
from gqasearch.grouping import Grouping
from gqasearch.grouping_document import read_grouping
from gqasearch.reporting import HistoryPoint
from gqasearch.run import RunFolder, run
from gqasearch.searching import check_takes
from gqasearch.searching.evaluation_log import values_of
from gqasearch.steps import NoProgress, ProcessCache, Progress, Workspace
from gqasearch.steps.check_settings import check_settings
from gqasearch.steps.outlook import Outlook
from gqasearch.steps.search import begun_search
from gqasearch.steps.search_problem import build_problem, prepare_fitness


@dataclass(frozen=True)
class Plan:
    """What is searched: every fitness under every method that takes it; and why the others are left out.

    ``notes``: what differs from what was asked for (``Outlook``).
    """

    entries: tuple[Entry, ...]
    left_out: tuple[str, ...]
    notes: tuple[str, ...]

    @classmethod
    def of(cls, config: ComparisonConfig, cache: ProcessCache) -> Plan:
        """Raises ``UserError`` when no method takes a fitness, or when settings do not fit the model."""
        condition = next(config.conditions())
        notes: dict[str, None] = {}
        for every in config.conditions():
            work = Workspace(config.run_config(every, NO_SEARCH), cache=cache)
            check_settings(work)
            if work.source.family.objective == "hidden-states":
                raise UserError(
                    f"{work.source.directory} has no head, and a comparison ranks fitness functions by KL and "
                    "perplexity; gqasearch search takes one at a time, report puts runs side by side"
                )
            work.parent  # noqa: B018 - once, for the errors of its weights
            notes |= dict.fromkeys(Outlook(work).notes())
        reasons = {
            entry: _refusal(Workspace(config.run_config(condition, entry), cache=cache)) for entry in config.entries()
        }
        entries = tuple(entry for entry, reason in reasons.items() if reason is None)
        for fitness in config.fitness:
            if all(entry.fitness != fitness for entry in entries):
                words = "; ".join(reason for entry, reason in reasons.items() if entry.fitness == fitness and reason)
                raise UserError(f"no method here searches {fitness}: {words}")
        return cls(entries, tuple(dict.fromkeys(reason for reason in reasons.values() if reason)), tuple(notes))

    def first_with(self, fitness: str) -> Entry:
        """The first entry of a fitness."""
        return next(entry for entry in self.entries if entry.fitness == fitness)


def _refusal(work: Workspace) -> str | None:
    """Why this fitness cannot be searched by this method; None where it can."""
    try:
        if not work.method.whole_model:
            check_takes(work.method, build_problem(work, prepare_fitness(work), work.method))
    except UserError as error:
        return str(error)
    return None


class OneStage(NoProgress):
    """Shows a run as one stage, within it where its search stands."""

    def __init__(self, progress: Progress, name: str) -> None:
        self.progress = progress
        progress.stage(name)

    def update(self, completed: int, point: HistoryPoint | None = None, detail: str = "") -> None:
        if point is not None:
            self.progress.update(0, point, detail)


def run_stage(condition: Condition, entry: Entry, seed: int) -> str:
    """What the run of a winner is called in progress."""
    return f"search {condition}: {entry.label}" + ("" if entry == NO_SEARCH else f", {entry.method}, seed {seed}")


def search_winners(
    config: ComparisonConfig, folder: ComparisonFolder, plan: Plan, cache: ProcessCache, progress: Progress
) -> None:
    """Make every run that is not there yet, and note what the first of every fitness met on its way."""
    for condition, entry, seed in runs(config, plan):
        if seed == 0:
            # The first seed's seconds are the search's whole price; the others know what it measured.
            cache.forget(ProcessCache.RUNNING, ProcessCache.TABLES)
        made, shown = folder.run(condition, entry, seed), OneStage(progress, run_stage(condition, entry, seed))
        run(config.run_config(condition, entry, seed), made.path, shown, cache)
        if config.sample and seed == 0 and entry.fitness and entry == plan.first_with(entry.fitness):
            _note_met(config, folder, condition, entry, made, cache)


def top_sample(config: ComparisonConfig, folder: ComparisonFolder, condition: Condition) -> list[Sampled]:
    """The pool of what the searches of a condition met; written when first asked for."""
    path = folder.groupings(condition, TOP)
    if not path.is_file():
        met = {name: read_sample(_met_path(folder, condition, name)) for name in config.fitness}
        write_sample(path, together({name: [one.grouping for one in found] for name, found in met.items()}))
    return read_sample(path)


def runs(config: ComparisonConfig, plan: Plan) -> Iterator[tuple[Condition, Entry, int]]:
    """Every run that a comparison makes: first that without a search, then all seeds of every entry."""
    if config.seeds:
        for condition in config.conditions():
            yield condition, NO_SEARCH, 0
            for entry in plan.entries:
                yield from ((condition, entry, seed) for seed in range(config.seeds))


def _met_path(folder: ComparisonFolder, condition: Condition, fitness: str) -> Path:
    return folder.groupings(condition, TOP).with_name(f"met-{fitness}.json")


def _note_met(
    config: ComparisonConfig,
    folder: ComparisonFolder,
    condition: Condition,
    entry: Entry,
    made: RunFolder,
    cache: ProcessCache,
) -> None:
    """Write the best groupings that the search of this run met, its winner first."""
    path = _met_path(folder, condition, str(entry.fitness))
    if not path.is_file():
        work = Workspace(config.run_config(condition, entry), cache=cache)
        write_sample(path, [Sampled(grouping) for grouping in _best_met(work, made, config.top)])


def _best_met(work: Workspace, made: RunFolder, count: int) -> list[Grouping]:
    """From the log of a search of whole models; a search by layer has none of these and is cheap: it is made again."""
    winner = read_grouping(made.grouping).grouping
    with begun_search(work) as search:
        if search.problem.layer_errors is None:
            values = values_of(made.evaluations, work.config.fitness, len(winner.layers))
            return top_of_values(winner, values, count)
        met = Met()
        for _ in replace(search, problem=WatchedProblem.of(search.problem, met)).generations():
            pass
    return top_of_layers(winner, met, count, np.random.default_rng(work.config.seed))
