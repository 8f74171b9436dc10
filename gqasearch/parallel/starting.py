"""From ``--workers`` to workers that run."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from gqasearch.parallel.blueprint import Blueprint
from gqasearch.parallel.choice import Workers
from gqasearch.parallel.crew import Crew
from gqasearch.parallel.evaluator import Evaluator
from gqasearch.parallel.processes import ProcessCrew


@contextmanager
def start_workers(workers: Workers, blueprint: Blueprint) -> Iterator[Evaluator]:
    """An evaluator whose workers are ready; all of them are ended when the block is left, however it is left.

    Raises ``UserError`` when Ray is not installed or not reached, or has no room.
    """
    crew: Crew
    if workers.address is None:
        crew = ProcessCrew(blueprint, workers.count or 1)
    else:
        from gqasearch.parallel.ray_crew import RayCrew

        crew = RayCrew(blueprint, workers.address, workers.count)
    with Evaluator(crew) as evaluator:
        yield evaluator
