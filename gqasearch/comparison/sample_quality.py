"""Held-out quality, and every fitness, of the groupings to rank; goes on where it stopped."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from gqasearch.calibration import TokenBlocks
from gqasearch.comparison.comparison_config import ComparisonConfig
from gqasearch.comparison.comparison_folder import RANDOM, TOP, ComparisonFolder
from gqasearch.comparison.conditions import Condition
from gqasearch.comparison.samples import Sampled, random_groupings, read_sample, write_sample
from gqasearch.comparison.searches import top_sample
from gqasearch.comparison.values import FITNESS, QUALITY, Column, Values
from gqasearch.errors import UserError
from gqasearch.evaluation import LayerStack, ParentLayers, Quality, evaluate_quality
from gqasearch.grouping import Grouping
from gqasearch.models import LayerWeights
from gqasearch.steps import ProcessCache, Progress, Workspace

KL, PERPLEXITY = "kl", "perplexity"
# The KL on every other block: how well one half of the text ranks as the other does is how well anything could.
EVEN, ODD = "kl-even-blocks", "kl-odd-blocks"
QUALITIES = (KL, PERPLEXITY, EVEN, ODD)
# Groupings between two writes.
BATCH = 4


@dataclass(frozen=True)
class Pool:
    """Groupings that are ranked together."""

    name: str
    sample: tuple[Sampled, ...]

    def __len__(self) -> int:
        return len(self.sample)


def pools(config: ComparisonConfig, folder: ComparisonFolder, condition: Condition) -> list[Pool]:
    """What is ranked in a condition, from the files."""
    found = [Pool(RANDOM, tuple(read_sample(folder.groupings(condition, RANDOM))))]
    return [*found, Pool(TOP, tuple(top_sample(config, folder, condition)))] if config.seeds else found


def measure_samples(
    config: ComparisonConfig, folder: ComparisonFolder, cache: ProcessCache, progress: Progress
) -> None:
    """Everything that is not there yet, condition by condition."""
    for condition in config.conditions():
        draw_random(config, folder, condition, cache)
        values = Values(folder.values(condition))
        for pool in pools(config, folder, condition):
            work = Workspace(config.ranked_config(condition, config.fitness[0]), progress, cache)
            _measure_qualities(work, config.sample_tokens, pool, values, condition)
        # Fitness by fitness, as one that runs the model holds much in memory.
        for name in config.fitness:
            work = Workspace(config.ranked_config(condition, name), progress, cache)
            for pool in pools(config, folder, condition):
                _measure_fitness(work, name, pool, values, condition)


def quality_stage(condition: Condition, pool: str) -> str:
    """What measuring the quality of a pool is called in progress."""
    return f"quality {condition}: {pool} groupings"


def fitness_stage(condition: Condition, pool: str, fitness: str) -> str:
    """The same of a fitness."""
    return f"{fitness} {condition}: {pool} groupings"


def draw_random(config: ComparisonConfig, folder: ComparisonFolder, condition: Condition, cache: ProcessCache) -> None:
    """Draw the random groupings of a KV ratio, unless they are there; all merges share them."""
    path = folder.groupings(condition, RANDOM)
    if not path.is_file():
        work = Workspace(config.ranked_config(condition, config.fitness[0]), cache=cache)
        budget = work.config.budget(work.parent.geometry)
        rng = np.random.default_rng([config.sample_seed, sum(budget.counts)])
        groupings = random_groupings(budget, config.sample, rng)
        if len(groupings) < 3:
            raise UserError(
                f"there are only {len(groupings)} groupings at KV ratio {condition.kv_ratio:g}: none to rank"
            )
        write_sample(path, [Sampled(grouping) for grouping in groupings])


def _measure_qualities(work: Workspace, tokens: int, pool: Pool, values: Values, condition: Condition) -> None:
    columns = [Column(pool.name, QUALITY, name) for name in QUALITIES]
    missing = values.missing(columns[-1], len(pool))
    if not missing:
        return
    blocks = work.blocks("evaluation").first(tokens)
    if len(blocks.ids) < 2:
        raise UserError(f"sample_tokens {tokens} is less than two blocks of {work.config.block_length} tokens")
    if work.merge.needs == "statistics":
        work.statistics  # noqa: B018 - a stage of its own, before this one
    work.progress.stage(quality_stage(condition, pool.name), total=len(pool))
    for places in _batches(missing):
        work.progress.update(places[0])
        for column, found in zip(
            columns, _qualities(work, [pool.sample[i].grouping for i in places], blocks), strict=True
        ):
            values.add(column, places, found)
        values.save()
    work.progress.update(len(pool))


def _qualities(work: Workspace, groupings: Sequence[Grouping], blocks: TokenBlocks) -> list[list[float]]:
    """Of every one of ``QUALITIES``, one number per grouping, as the run of this grouping would be measured."""
    runners: dict[str, LayerStack] = {}
    for index, grouping in enumerate(groupings):
        refined: Mapping[int, LayerWeights] = {}
        if work.refinement.reads_text:
            refined = work.converter.refine(
                grouping, work.blocks("calibration"), work.refinement, batch_blocks=work.config.batch_blocks
            )
        runners[str(index)] = work.converter.runner(grouping, refined)
    _, found = evaluate_quality(ParentLayers(work.parent), runners, blocks, batch_blocks=work.config.batch_blocks)
    rows = [_numbers(found[name]) for name in runners]
    return [list(column) for column in zip(*rows, strict=True)]


def _numbers(quality: Quality) -> tuple[float, float, float, float]:
    per_block = np.array(quality.kl_blocks)
    return quality.kl, quality.perplexity, float(per_block[::2].mean()), float(per_block[1::2].mean())


def _measure_fitness(work: Workspace, name: str, pool: Pool, values: Values, condition: Condition) -> None:
    column = Column(pool.name, FITNESS, name)
    missing = values.missing(column, len(pool))
    if not missing:
        return
    fitness = work.fitnesses[name]
    if fitness.needs == "statistics" or (fitness.needs == "forward" and work.merge.needs == "statistics"):
        work.statistics  # noqa: B018 - a stage of its own, before this one
    work.progress.stage(fitness_stage(condition, pool.name, name), total=len(pool))
    prepared = work.prepared(fitness)
    for places in _batches(missing):
        work.progress.update(places[0])
        found = prepared.evaluate([pool.sample[index].grouping for index in places])
        if not np.isfinite(found).all():
            raise UserError(f"fitness {name} gave {found.tolist()} for groupings {places} of {values.path.parent}")
        values.add(column, places, found.tolist())
        values.save()
    work.progress.update(len(pool))


def _batches(places: list[int]) -> Iterator[list[int]]:
    for start in range(0, len(places), BATCH):
        yield places[start : start + BATCH]
