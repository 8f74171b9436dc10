"""The search step of a run: history, state and result in the run folder, resumable at any moment."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from gqasearch.errors import UserError
from gqasearch.evaluation import counted_forwards
from gqasearch.files import write_json
from gqasearch.fitness import PreparedFitness, PreparedGroupFitness
from gqasearch.grouping_document import (
    CalibrationRecord,
    FitnessRecord,
    GroupingDocument,
    LayerRecord,
    MergeRecord,
    RefinementRecord,
    SearchRecord,
    layer_rows,
    write_grouping,
)
from gqasearch.models import model_record
from gqasearch.parallel import ONE, Evaluator, Workers
from gqasearch.reporting import HistoryPoint
from gqasearch.run.certify import certify, check_certifiable
from gqasearch.run.folder import RunFolder
from gqasearch.run.problem import build_problem, prepare_fitness
from gqasearch.run.search_log import SearchLog
from gqasearch.run.second_reads import chosen_second_reads
from gqasearch.run.workers import evaluator_of, threads_of
from gqasearch.run.workspace import Workspace
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
    run_search,
)
from gqasearch.searching.exact import CLOSED_GAP
from gqasearch.threads import pinned


def search_step(work: Workspace, folder: RunFolder, workers: Workers = ONE, threads: int | None = None) -> None:
    """Search, or go on searching; writes ``grouping.json`` (and ``pareto.json``) at the end.

    The number of threads may change the last bits of a value, so a search keeps that which it began with, whoever
    evaluates: ``workers`` change no result.
    """
    stored = folder.read_state() or {}
    begun = stored.get("threads")
    if None not in (begun, threads) and begun != threads:
        raise UserError(
            f"{folder.path} was begun with {begun} threads, which its values depend on; leave --threads out"
        )
    pin = int(begun or threads_of(workers, threads))
    if "statistics" in work.needs():
        work.statistics  # noqa: B018 - gathered once, on all of this process's threads
    with pinned(pin), evaluator_of(work, workers, pin) as evaluator:
        _search(work, folder, stored | {"threads": pin}, evaluator)


def _search(work: Workspace, folder: RunFolder, stored: dict[str, Any], evaluator: Evaluator | None) -> None:
    begun = begin_search(work, evaluator)
    limit = _limit(work, float(stored.get("seconds", 0.0)))
    generation: Generation | None = None
    with counted_forwards(work.parent) as forwards:
        log = SearchLog(
            folder,
            stored,
            failures=lambda: evaluator.failures if evaluator is not None else (),
            forward_tokens=lambda: forwards.tokens if evaluator is None else None,
        )
        with log:
            for generation in begun.generations(limit, stored.get("search")):
                record = log.add(generation)
                seen = (generation.index, generation.evaluations, generation.best.values[0], record["seconds"])
                work.progress.update(generation.index + 1, HistoryPoint(*seen))
                for listener in work.listeners:
                    listener.on_generation(record)
            if generation is None:
                raise UserError(f"{folder.state} holds no state that a search can go on from; remove it to start over")
            log.save(generation)
    if len(begun.problem.objectives) > 1:
        write_json(folder.pareto, _pareto(work, generation), overwrite=True)
    write_grouping(folder.grouping, begun.document(generation))
    begun.rest()


@dataclass(frozen=True)
class BegunSearch:
    """A search whose fitness functions are bound to the model, by objective: ``prepared``."""

    work: Workspace
    prepared: dict[str, PreparedFitness]
    problem: Problem

    def generations(self, limit: Limit = NO_LIMIT, state: dict[str, Any] | None = None) -> Iterator[Generation]:
        """Every generation; ``state``: of the last one of a search that was stopped."""
        work = self.work
        total = most_generations(work.method, self.problem) if limit == NO_LIMIT else None
        work.progress.stage("search", total=total)
        rng = np.random.default_rng(work.config.seed)
        yield from run_search(work.method, self.problem, rng, state, limit)

    def document(self, generation: Generation) -> GroupingDocument:
        """The grouping JSON of the best candidate."""
        return build_document(self.work, self.work.method, generation, self.prepared)

    def rest(self) -> None:
        """Let go of what takes much memory: the search is over for now."""
        for fitness in self.prepared.values():
            fitness.rest()


def begin_search(work: Workspace, evaluator: Evaluator | None = None) -> BegunSearch:
    """Bind the fitness functions; raises ``UserError`` for what the method cannot search."""
    prepared = prepare_fitness(work, evaluator)
    begun = BegunSearch(work, prepared, build_problem(work, prepared, work.method))
    check_takes(work.method, begun.problem)
    check_certifiable(work, begun.problem)
    return begun


def _limit(work: Workspace, spent: float) -> Limit:
    """What this run may still cost; ``spent``: seconds before it was stopped."""
    seconds = work.config.max_seconds
    return Limit(work.config.max_evaluations, None if seconds is None else max(0.0, seconds - spent))


def _pareto(work: Workspace, generation: Generation) -> dict[str, Any]:
    points = [
        {
            "values": list(candidate.values),
            "kv_heads_total": candidate.grouping.kv_heads_total,
            "layers": layer_rows(
                [{"groups": [list(group) for group in layer.groups]} for layer in candidate.grouping],
                work.config.separate_kv,
            ),
        }
        for candidate in generation.front
    ]
    return {"objectives": list(work.config.objectives), "points": points}


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
