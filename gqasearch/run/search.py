"""The search step of a run: history, state and result in the run folder, resumable at any moment."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from gqasearch.errors import UserError
from gqasearch.files import write_file
from gqasearch.fitness import PreparedFitness, PreparedGroupFitness
from gqasearch.grouping_document import (
    CalibrationRecord,
    FitnessRecord,
    GroupingDocument,
    LayerRecord,
    MergeRecord,
    ModelRecord,
    RefinementRecord,
    SearchRecord,
    write_grouping,
)
from gqasearch.reporting import HistoryPoint
from gqasearch.run.callbacks import RunCallback
from gqasearch.run.certify import certify, check_certifiable
from gqasearch.run.folder import RunFolder, write_json
from gqasearch.run.problem import build_problem, prepare_fitness
from gqasearch.run.workspace import Workspace
from gqasearch.search import Candidate, Generation, SearchMethod, check_takes, most_generations, run_search
from gqasearch.search.exact import CLOSED_GAP

STATE_SECONDS = 1.0  # at most this much of a search is lost to a kill


def search_step(work: Workspace, folder: RunFolder, callbacks: Sequence[RunCallback] = ()) -> None:
    """Search, or go on searching; writes ``grouping.json`` (and ``pareto.json``) at the end.

    ``callbacks`` are called after every generation. What one raises ends the search, which can go on later.
    """
    method = work.method
    prepared = prepare_fitness(work)
    problem = build_problem(work, prepared, method)
    check_takes(method, problem)
    check_certifiable(work, problem)
    stored = folder.read_state() or {}
    lines: list[str] = list(stored.get("history", []))
    before = float(stored.get("seconds", 0.0))
    write_file(folder.history, "".join(line + "\n" for line in lines), overwrite=True)
    work.progress.stage("search", total=most_generations(method, problem))
    started, last_write = time.monotonic(), -STATE_SECONDS
    generation: Generation | None = None
    with folder.history.open("a", encoding="utf-8") as history:
        rng = np.random.default_rng(work.config.seed)
        for generation in run_search(method, problem, rng, stored.get("search")):
            now = time.monotonic() - started
            lines.append(_history_line(generation, before + now))
            history.write(lines[-1] + "\n")
            history.flush()
            point = HistoryPoint(generation.index, generation.evaluations, generation.best.values[0], before + now)
            work.progress.update(generation.index + 1, point)
            if now - last_write >= STATE_SECONDS:
                folder.write_state({"search": generation.state(), "history": lines, "seconds": before + now})
                last_write = time.monotonic() - started
            for callback in callbacks:
                callback.on_generation(generation, before + now)
    if generation is None:
        raise UserError(f"{folder.state} holds no state that a search can go on from; remove it to start over")
    seconds = before + time.monotonic() - started
    folder.write_state({"search": generation.state(), "history": lines, "seconds": seconds})
    if len(problem.objectives) > 1:
        write_json(folder.pareto, _pareto(work, generation), overwrite=True)
    write_grouping(folder.grouping, build_document(work, method, generation, prepared))


def _history_line(generation: Generation, seconds: float) -> str:
    record: dict[str, Any] = {
        "generation": generation.index,
        "evaluations": generation.evaluations,
        "best": list(generation.best.values),
        "kv_heads_total": generation.best.grouping.kv_heads_total,
        "seconds": round(seconds, 3),
    }
    if generation.best.final is not None:
        record["final"] = generation.best.final
    return json.dumps(record, allow_nan=False)


def _pareto(work: Workspace, generation: Generation) -> dict[str, Any]:
    points = [
        {
            "values": list(candidate.values),
            "kv_heads_total": candidate.grouping.kv_heads_total,
            "layers": [{"groups": [list(group) for group in layer.groups]} for layer in candidate.grouping],
        }
        for candidate in generation.front
    ]
    return {"objectives": list(work.config.objectives), "points": points}


def build_document(
    work: Workspace, method: SearchMethod, generation: Generation, prepared: dict[str, PreparedFitness]
) -> GroupingDocument:
    """The grouping JSON of the best candidate."""
    chosen = _chosen(work, generation)
    fitness = work.fitnesses[work.config.fitness]
    return GroupingDocument(
        model=model_record(work),
        layers=tuple(layer_records(work, chosen, prepared[work.config.fitness])),
        merge=MergeRecord(work.merge.name, work.merge.parameters()),
        refinement=refinement_record(work),
        fitness=FitnessRecord(fitness.name, chosen.values[0], fitness.parameters()),
        search=SearchRecord(method.name, work.config.seed, generation.evaluations, method.parameters()),
        calibration=calibration_record(work),
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


def model_record(work: Workspace) -> ModelRecord:
    """The source model as named in grouping.json."""
    parent, geometry = work.parent, work.parent.geometry
    return ModelRecord(
        id=parent.id,
        architecture=parent.config["architectures"][0],
        num_layers=geometry.num_layers,
        num_attention_heads=geometry.num_attention_heads,
        num_key_value_heads=geometry.num_kv_heads,
        head_dim=geometry.head_dim,
        revision=parent.revision,
        fingerprint=parent.fingerprint,
    )


def refinement_record(work: Workspace) -> RefinementRecord | None:
    """The refinement as named in grouping.json; None for none."""
    refinement = work.refinement
    return None if refinement.name == "none" else RefinementRecord(refinement.name, refinement.parameters())


def calibration_record(work: Workspace) -> CalibrationRecord:
    """The text that statistics come from."""
    blocks = work.blocks("calibration")
    return CalibrationRecord(blocks.source, blocks.tokens, blocks.fingerprint)


def search_seconds(folder: RunFolder) -> float:
    """Seconds that the search took, over all its restarts."""
    return float((folder.read_state() or {}).get("seconds", 0.0))
