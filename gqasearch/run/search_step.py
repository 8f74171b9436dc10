"""The search step of a run: history, evaluations and result in the run folder, to go on from at any moment."""

from __future__ import annotations

import json
from collections.abc import Sequence
from contextlib import closing
from typing import Any

from gqasearch.errors import UserError
from gqasearch.evaluation import counted_forwards
from gqasearch.files import write_json
from gqasearch.grouping_document import layer_rows, write_grouping
from gqasearch.parallel import ONE, Workers
from gqasearch.run.listener import RunListener
from gqasearch.run.run_folder import RunFolder
from gqasearch.run.search_log import Costs, history_record
from gqasearch.searching import Generation
from gqasearch.searching.evaluation_log import EvaluationLog
from gqasearch.steps import Workspace
from gqasearch.steps.search import BegunSearch, begun_search
from gqasearch.steps.workers import threads_of


def search_step(
    work: Workspace,
    folder: RunFolder,
    workers: Workers = ONE,
    threads: int | None = None,
    listeners: Sequence[RunListener] = (),
) -> None:
    """Search, or go on searching; writes ``grouping.json`` (and ``pareto.json``) at the end.

    A search keeps the number of threads that it began with, whoever evaluates.
    """
    stored = folder.read_state() or {}
    begun = stored.get("threads")
    if None not in (begun, threads) and begun != threads:
        raise UserError(
            f"{folder.path} was begun with {begun} threads, which its values depend on; leave --threads out"
        )
    pin = int(begun or threads_of(workers, threads))
    log = EvaluationLog(folder.evaluations, [record["seconds"] for record in folder.known_history()])
    with closing(log), begun_search(work, workers, pin, log) as search, counted_forwards(work.parent) as forwards:
        folder.write_state({"threads": pin})
        log.costs = Costs(forwards, search.evaluator)
        last = _noted(search, folder, listeners)
        if len(search.problem.objectives) > 1:
            write_json(folder.pareto, _pareto(work, last), overwrite=True)
        write_grouping(folder.grouping, search.document(last))


def _noted(search: BegunSearch, folder: RunFolder, listeners: Sequence[RunListener]) -> Generation:
    """The last generation; each new one is in the history, told to the listeners. Those that were made before are made
    again; raises ``UserError`` where one of them comes out otherwise.
    """
    known = folder.known_history()
    with folder.history.open("a", encoding="utf-8") as file:
        for generation in search.generations():
            last, record = generation, history_record(generation, search.problem.clock.seconds)
            if generation.index < len(known):
                if record | {"seconds": 0} != known[generation.index] | {"seconds": 0}:
                    raise UserError(
                        f"{folder.path}: generation {generation.index} of its search no longer comes out as it did: "
                        "gqasearch, a library or the machine changed since. Give another --output-dir"
                    )
                continue
            file.write(json.dumps(record, allow_nan=False) + "\n")
            file.flush()
            for listener in listeners:
                listener.on_generation(record)
    return last


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
