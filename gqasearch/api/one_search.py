"""A search from Python: nothing is written, and what is found comes back as an object."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from gqasearch.api.parent_with_text import ParentWithText, chosen
from gqasearch.api.python_words import python_words
from gqasearch.api.result import SearchResult
from gqasearch.config import KV_RATIO
from gqasearch.errors import UserError
from gqasearch.files import read_json
from gqasearch.fitness import Fitness
from gqasearch.merging import Merge
from gqasearch.parallel import Workers, parse_workers
from gqasearch.refining import Refinement
from gqasearch.searching import Generation, SearchMethod
from gqasearch.steps import NoProgress, Progress, Workspace
from gqasearch.steps.check_settings import check_run
from gqasearch.steps.kv_bytes import DecisionFiles, decide, decision_words, settled
from gqasearch.steps.objects import Objects
from gqasearch.steps.search import begun_search
from gqasearch.steps.workers import threads_of
from gqasearch.threads import pinned

Callback = Callable[[Generation], object]


@python_words()
def search(
    parent: ParentWithText,
    *,
    kv_ratio: float | None = None,
    fitness: Fitness | str | Sequence[Fitness | str] | None = None,
    merge: Merge | str | None = None,
    refine: Refinement | str | None = None,
    method: SearchMethod | str | None = None,
    seed: int = 0,
    callbacks: Sequence[Callback] = (),
    workers: int | str = 1,
    threads: int | None = None,
    progress: bool = False,
    **settings: Any,
) -> SearchResult:
    """Search which heads of ``parent`` should share. Lower fitness is better, always.

    ``kv_ratio``: share of the KV cache to keep, the same in every layer [default: 0.5]; the nearest whole number of
    heads is taken, and the result's ``notes`` say so. ``fitness``, ``merge``,
    ``refine`` (what is fitted after the merge), ``method``: objects, or names as ``gqasearch ls`` lists them
    [default: as ``gqasearch search``]; several fitness functions, or one and "kv-ratio", give a Pareto front.
    ``callbacks``: called with every generation; what one raises ends the search. ``workers``, ``threads``: who runs
    candidates, and on how many threads each. ``progress``: show it on standard error. ``settings``: every other setting
    of a run (``kv_heads``, ``kv_budget``, ``kv_bytes``, ``uneven``, ``equal_sizes``, ``join``, ``separate_kv``,
    ``kv_bits``, ``max_evaluations``, ``max_seconds``, ``certify``, ...).

    Raises ``UserError`` for what cannot be searched, before the work.
    """
    if not isinstance(parent, ParentWithText):
        raise UserError(f"search takes a parent that gqasearch.load has given, got {parent!r}")
    values, objects = _settings(fitness, merge, refine, method)
    ratio = {} if kv_ratio is None else {"kv_ratio": kv_ratio}
    with shown_progress(progress) as told:
        # No checkpoint is planned: ``SearchResult.save`` is asked which.
        work = parent.workspace({**values, **ratio, **settings, "seed": seed, "materialize": False}, objects, told)
        crew = parse_workers(workers)
        work, decision = _decided(work, crew, threads)
        decided = [] if decision is None else [decision_words(decision)]
        notes = (*decided, *check_run(work, crew, threads).notes())
        history: list[Generation] = []
        with begun_search(work, crew, threads) as begun:
            for generation in begun.generations():
                history.append(generation)
                for callback in callbacks:
                    callback(generation)
            document = begun.document(history[-1])
    return SearchResult(parent, work.config, objects, document, history[-1].front, tuple(history), notes, decision)


def _decided(work: Workspace, crew: Workers, threads: int | None) -> tuple[Workspace, Mapping[str, Any] | None]:
    """The workspace of the format and the number of heads that a budget in bytes became, and what was compared; without
    such a budget ``work`` itself.
    """
    if not work.config.decides_format:
        return work, None
    with TemporaryDirectory(prefix="gqasearch-decision-") as folder:
        files = DecisionFiles.within(Path(folder))
        check_run(settled(work, files), crew, threads)
        files.candidates.mkdir(parents=True)
        with pinned(threads_of(crew, threads)):
            decide(work, files)
        # Decided: the result is measured and saved by settings that say so, and have no budget in bytes beside them.
        return settled(work, files).settled({"kv_bytes": None, "formats": None}), read_json(files.format)


def _settings(
    fitness: Fitness | str | Sequence[Fitness | str] | None,
    merge: Merge | str | None,
    refine: Refinement | str | None,
    method: SearchMethod | str | None,
) -> tuple[dict[str, Any], Objects]:
    """Settings that name these, and the objects among them."""
    values, objects = chosen(merge=merge, refine=refine)
    objectives = [fitness] if isinstance(fitness, Fitness | str) else list(fitness or [])
    fitnesses = {one.name: one for one in objectives if isinstance(one, Fitness)}
    if objectives:
        values["objectives"] = tuple(one if isinstance(one, str) else one.name for one in objectives)
    if len([name for name in values.get("objectives", ()) if name != KV_RATIO]) == 1:
        values["fitness_parameters"] = next((one.parameters() for one in fitnesses.values()), {})
    if isinstance(method, SearchMethod):
        values |= {"method": method.name, "method_parameters": method.parameters()}
    elif method is not None:
        values["method"] = method
    known = method if isinstance(method, SearchMethod) else None
    return values, Objects(fitnesses, objects.merge, objects.refinement, known)


@contextmanager
def shown_progress(wanted: bool) -> Iterator[Progress]:
    """Progress on standard error, or nowhere."""
    if not wanted:
        yield NoProgress()
        return
    from rich.console import Console

    from gqasearch.reporting import SearchProgress

    with SearchProgress(Console(stderr=True)) as progress:
        yield progress
