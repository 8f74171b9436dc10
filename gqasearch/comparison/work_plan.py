"""What a comparison will take: told before the work, and one bar over all of it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from gqasearch.comparison.comparison_config import NO_SEARCH, ComparisonConfig
from gqasearch.comparison.comparison_folder import RANDOM, TOP, ComparisonFolder
from gqasearch.comparison.sample_quality import BATCH, ODD, fitness_stage, quality_stage
from gqasearch.comparison.searches import Plan, run_stage, runs
from gqasearch.comparison.values import FITNESS, QUALITY, Column, Values
from gqasearch.reporting import HistoryPoint
from gqasearch.run.cost_plan import Rates, Sizes, stage_seconds
from gqasearch.run.forecast import measured_rates, time_words
from gqasearch.run.sizes import sizes_of
from gqasearch.steps import NoProgress, ProcessCache, Progress, Workspace
from gqasearch.steps.outlook import Outlook


def expected_seconds(
    config: ComparisonConfig, plan: Plan, folder: ComparisonFolder, cache: ProcessCache
) -> dict[str, float]:
    """Stage -> seconds, of all that is not there yet; from a timed first batch, as a run's forecast."""
    work = Workspace(config.run_config(next(config.conditions()), NO_SEARCH), cache=cache)
    rates = measured_rates(work.parent, work.blocks("evaluation"), work.config.batch_blocks, base=0)
    return {**_of_runs(config, plan, folder, cache, rates), **_of_ranking(config, folder, cache, rates)}


def _of_runs(
    config: ComparisonConfig, plan: Plan, folder: ComparisonFolder, cache: ProcessCache, rates: Rates
) -> dict[str, float]:
    found: dict[str, float] = {}
    for condition, entry, seed in runs(config, plan):
        if folder.run(condition, entry, seed).metrics.is_file():
            continue
        sizes = _sizes(Workspace(config.run_config(condition, entry, seed), cache=cache))
        # A later seed knows the errors of groups that the first one measured.
        stages = dict(stage_seconds(replace(sizes, groups=0) if seed else sizes, rates))
        if found:  # the first has loaded the model and gathered the statistics
            stages = {name: seconds for name, seconds in stages.items() if name not in ("load", "calibration")}
        if config.seconds is not None and entry != NO_SEARCH:
            stages["search"] = min(stages["search"], config.seconds)
        found[run_stage(condition, entry, seed)] = sum(stages.values())
    return found


def _of_ranking(
    config: ComparisonConfig, folder: ComparisonFolder, cache: ProcessCache, rates: Rates
) -> dict[str, float]:
    found: dict[str, float] = {}
    for condition in config.conditions() if config.sample else ():
        values = Values(folder.values(condition))
        for pool, size in pool_sizes(config).items():
            sizes = _sizes(Workspace(config.ranked_config(condition, config.fitness[0]), cache=cache))
            count = len(values.missing(Column(pool, QUALITY, ODD), size))
            found[quality_stage(condition, pool)] = _quality_seconds(sizes, rates, count, config.sample_tokens)
            for name in config.fitness:
                work = Workspace(config.ranked_config(condition, name), cache=cache)
                count = len(values.missing(Column(pool, FITNESS, name), size))
                found[fitness_stage(condition, pool, name)] = _fitness_seconds(work, name, rates, count)
    return found


def _quality_seconds(sizes: Sizes, rates: Rates, count: int, tokens: int) -> float:
    """Of ``count`` groupings, with the parent beside every ``BATCH`` of them."""
    tokens = min(tokens, sizes.evaluation_tokens)
    stages = stage_seconds(replace(sizes, evaluation_tokens=tokens, models=count + -(-count // BATCH)), rates)
    return stages.get("evaluation", 0.0) + count * stages.get("refine", 0.0)


def _fitness_seconds(work: Workspace, name: str, rates: Rates, count: int) -> float:
    sizes, needs = _sizes(work), work.fitnesses[name].needs
    groups = count * max(work.budget.counts) if needs == "statistics" else 0
    tokens = count * work.blocks("search").tokens if needs == "forward" else 0
    return stage_seconds(replace(sizes, groups=groups, candidates=0, model_tokens=tokens), rates).get("search", 0.0)


def _sizes(work: Workspace) -> Sizes:
    return sizes_of(work, Outlook(work))


def pool_sizes(config: ComparisonConfig) -> dict[str, int]:
    """How many groupings of a condition are ranked, at most."""
    return {RANDOM: config.sample, **({TOP: config.top * len(config.fitness)} if config.seeds else {})}


def work_words(config: ComparisonConfig, plan: Plan, seconds: dict[str, float]) -> Iterator[str]:
    """How many searches, groupings and evaluations there are, and what is left of them takes."""
    conditions = list(config.conditions())
    every = "" if len(conditions) == 1 else f" for each of {len(conditions)} pairs of merge and KV ratio"
    parts = []
    if config.seeds:
        budget = f"{config.evaluations:,} evaluations" if config.evaluations else f"{config.seconds:g} seconds"
        parts.append(f"{len(plan.entries) * config.seeds} searches (budget: {budget}) and one run without a search")
    if config.sample:
        pools = pool_sizes(config)
        top = f" and at most {pools[TOP]} of the searches' best" if TOP in pools else ""
        count = sum(pools.values()) * (1 + len(config.fitness))
        parts.append(
            f"{pools[RANDOM]} random{top} groupings, each measured on {config.sample_tokens:,} held-out tokens and "
            f"evaluated by {len(config.fitness)} fitness functions ({count:,} evaluations)"
        )
    yield f"the plan{every}: {'; '.join(parts)}"
    searching = sum(taken for name, taken in seconds.items() if name.startswith("search "))
    ranking = sum(seconds.values()) - searching
    yield f"expected time: about {time_words(searching + ranking)}" + (
        f" (searches {time_words(searching)}, ranking {time_words(ranking)})" if searching and ranking else ""
    )


class OneBar(NoProgress):
    """A bar in percent over stages that were expected to take ``seconds``; within it what the stage at work says."""

    def __init__(self, progress: Progress, seconds: dict[str, float]) -> None:
        self.progress, self.seconds, self.whole = progress, seconds, sum(seconds.values())
        self.name, self.total, self.before = "", 0, 0.0

    def stage(self, name: str, total: int | None = None) -> None:
        if not self.name:
            self.progress.stage("comparison, percent", total=100)
        self.before += self.seconds.get(self.name, 0.0)
        self.name, self.total = name, total or 0
        self.update(0)

    def update(self, completed: int, point: HistoryPoint | None = None, detail: str = "") -> None:
        share = completed / self.total if self.total else 0.0
        done = self.before + share * self.seconds.get(self.name, 0.0)
        standing = point.words if point is not None else detail or (f"{completed}/{self.total}" if self.total else "")
        self.progress.update(
            int(100 * done / self.whole) if self.whole else 100, detail=f"{self.name}  {standing}".rstrip()
        )
