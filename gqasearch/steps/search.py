"""A search: fitness functions bound to the model, generations, and the best grouping with all that is known of it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace

import numpy as np

from gqasearch.errors import UserError
from gqasearch.fitness import PreparedFitness, PreparedGroupFitness
from gqasearch.grouping_document import (
    CalibrationRecord,
    FitnessRecord,
    GroupingDocument,
    LayerRecord,
    MergeRecord,
    RefinementRecord,
    SearchRecord,
)
from gqasearch.models import model_record
from gqasearch.parallel import ONE, Evaluator, Workers
from gqasearch.reporting import HistoryPoint
from gqasearch.searching import (
    FAILED,
    NO_LIMIT,
    Candidate,
    Generation,
    Limit,
    Problem,
    SearchMethod,
    check_takes,
    most_generations,
)
from gqasearch.searching.evaluation_log import EvaluationLog
from gqasearch.searching.exact import CLOSED_GAP
from gqasearch.searching.runner import run_search
from gqasearch.steps.certify import certify, check_certifiable
from gqasearch.steps.filled_slots import chosen_second_reads
from gqasearch.steps.search_problem import build_problem, prepare_fitness
from gqasearch.steps.workers import evaluator_of, threads_of
from gqasearch.steps.workspace import Workspace
from gqasearch.threads import pinned


@dataclass(frozen=True)
class BegunSearch:
    """A search whose fitness functions are bound to the model, by objective: ``prepared``.

    ``evaluator``: the workers that run its candidates; None where this process does.
    """

    work: Workspace
    prepared: dict[str, PreparedFitness]
    problem: Problem
    evaluator: Evaluator | None = None

    def generations(self) -> Iterator[Generation]:
        """Every generation, as far as the configuration's limits go, each shown as progress."""
        work, config, problem = self.work, self.work.config, self.problem
        limit = Limit(config.max_evaluations, config.max_seconds)
        work.progress.stage("search", total=most_generations(work.method, problem) if limit == NO_LIMIT else None)
        for generation in run_search(work.method, problem, np.random.default_rng(config.seed), limit):
            best = generation.best.values[0]
            point = HistoryPoint(generation.index, generation.evaluations, best, problem.clock.seconds)
            # With those that were spared: else the layers that are left would seem to take all that they may.
            work.progress.update(generation.index + 1 + generation.spared, point)
            yield generation

    def document(self, generation: Generation) -> GroupingDocument:
        """The grouping JSON of the best candidate."""
        return build_document(self.work, self.work.method, generation, self.prepared)


@contextmanager
def begun_search(
    work: Workspace, workers: Workers = ONE, threads: int | None = None, log: EvaluationLog | None = None
) -> Iterator[BegunSearch]:
    """Bind the fitness functions, on ``workers``; what takes much memory is let go of after the block.

    The number of ``threads`` of each may change the last bits of a value; ``workers`` change no result. ``log``: see
    ``build_problem``. Raises ``UserError`` for what the method cannot search.
    """
    if "statistics" in work.needs():
        work.statistics  # noqa: B018 - gathered once, on all of this process's threads, and no part of the search
    pin = threads_of(workers, threads)
    with pinned(pin), evaluator_of(work, workers, pin) as evaluator:
        prepared = prepare_fitness(work, evaluator)
        problem = build_problem(work, prepared, work.method, log)
        check_takes(work.method, problem)
        check_certifiable(work, problem)
        yield BegunSearch(work, prepared, problem, evaluator)
        for fitness in prepared.values():
            fitness.rest()


def build_document(
    work: Workspace, method: SearchMethod, generation: Generation, prepared: dict[str, PreparedFitness]
) -> GroupingDocument:
    """The grouping JSON of the best candidate."""
    chosen = _chosen(work, generation)
    if FAILED in (chosen.values[0], chosen.final):
        raise UserError(f"every candidate killed its worker: {work.config.fitness} gave no value for any")
    fitness = work.fitnesses[work.config.fitness]
    records = layer_records(work, chosen, prepared[work.config.fitness])
    reads = chosen_second_reads(work, chosen.grouping)
    return GroupingDocument(
        model=model_record(work.config.model, work.unjoined.source),
        layers=tuple(replace(record, second_reads=own) for record, own in zip(records, reads, strict=True)),
        merge=MergeRecord(work.merge.name, work.merge.parameters()),
        refinement=refinement_record(work),
        fitness=FitnessRecord(fitness.name, chosen.values[0], fitness.parameters()),
        search=SearchRecord(method.name, work.config.seed, generation.evaluations, method.parameters()),
        calibration=calibration_record(work),
        join=work.config.join,
        separate_kv=work.config.separate_kv,
        kv_bits=work.config.kv_bits,
    )


def layer_records(work: Workspace, chosen: Candidate, first: PreparedFitness) -> Iterator[LayerRecord]:
    """Partition, error and, from an exact method or with ``--certify``, the proof of every layer."""
    bounds: Sequence[float | None] = chosen.lower_bounds or [None] * len(chosen.grouping)
    if work.config.certify and not chosen.lower_bounds:
        bounds = certify(work, chosen.grouping, first, work.budget)
    for index, (layer, bound) in enumerate(zip(chosen.grouping, bounds, strict=True)):
        error = first.layer_error(index, layer.groups) if isinstance(first, PreparedGroupFitness) else None
        if bound is None or error is None:
            yield LayerRecord(layer, error, False if work.config.certify else None)
        else:
            yield LayerRecord(layer, error, error - bound <= CLOSED_GAP * abs(error), min(bound, error))


def _chosen(work: Workspace, generation: Generation) -> Candidate:
    """The best candidate; of a Pareto front, the best within the KV budget that was asked for."""
    if len(generation.front) <= 1 or not work.config.has_free_counts:
        return generation.best
    allowed = sum(work.config.counts(work.parent.geometry))
    within = [c for c in generation.front if c.grouping.kv_heads_total <= allowed]
    if not within:
        raise UserError(f"no candidate of the front has at most {allowed} KV heads; search longer or raise the budget")
    return min(within, key=lambda candidate: candidate.values)


def refinement_record(work: Workspace) -> RefinementRecord | None:
    """The refinement as named in grouping.json; None for none."""
    refinement = work.refinement
    return None if refinement.name == "none" else RefinementRecord(refinement.name, refinement.parameters())


def calibration_record(work: Workspace) -> CalibrationRecord:
    """The text that statistics come from."""
    blocks = work.blocks("calibration")
    return CalibrationRecord(blocks.source, blocks.tokens, blocks.fingerprint)
