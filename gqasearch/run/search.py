"""The search step of a run: history, state and result in the run folder, resumable at any moment."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from gqasearch.errors import UserError
from gqasearch.evaluation import counted_forwards
from gqasearch.files import write_json
from gqasearch.grouping_document import layer_rows, write_grouping
from gqasearch.parallel import ONE, Workers
from gqasearch.run.folder import RunFolder
from gqasearch.run.listener import RunListener
from gqasearch.run.search_log import SearchLog
from gqasearch.searching import Generation
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
    with begun_search(work, workers, pin) as search:
        last = _logged(search, folder, stored | {"threads": pin}, listeners)
        if len(search.problem.objectives) > 1:
            write_json(folder.pareto, _pareto(work, last), overwrite=True)
        write_grouping(folder.grouping, search.document(last))


def _logged(
    search: BegunSearch, folder: RunFolder, stored: dict[str, Any], listeners: Sequence[RunListener]
) -> Generation:
    """The last generation; each is in the history, told to the listeners."""
    evaluator = search.evaluator
    with counted_forwards(search.work.parent) as forwards:
        log = SearchLog(
            folder,
            stored,
            failures=lambda: evaluator.failures if evaluator is not None else (),
            forward_tokens=lambda: forwards.tokens if evaluator is None else None,
        )
        with log:
            last: Generation | None = None
            for last in search.generations(stored.get("search"), float(stored.get("seconds", 0.0))):
                record = log.add(last)
                for listener in listeners:
                    listener.on_generation(record)
            if last is None:
                raise UserError(f"{folder.state} holds no state that a search can go on from; remove it to start over")
            log.save(last)
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
