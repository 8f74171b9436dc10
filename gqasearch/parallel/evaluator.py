"""Values of many candidates from several workers, in order, with one process's bits, through workers' deaths."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any

import numpy as np

from gqasearch.contract import Facts, Item, Question
from gqasearch.errors import UserError
from gqasearch.evaluation.recent import Recent
from gqasearch.grouping import Grouping
from gqasearch.pairwise import FloatArray
from gqasearch.parallel.crew import Crew, Seat
from gqasearch.parallel.queues import Queues
from gqasearch.parallel.worker import Raised
from gqasearch.searching import FAILED

DEATHS_ALLOWED = 2  # of a worker that had this candidate alone, or in a row while the model is loaded
MOST_HOMES = 2**16
log = logging.getLogger(__name__)


@dataclass
class _Task:
    """One call of ``values``: place of an item -> its value, and how often it has killed its worker alone."""

    question: Question
    items: Sequence[Item]
    queues: Queues
    values: dict[int, float] = field(default_factory=dict)
    deaths: dict[int, int] = field(default_factory=dict)
    is_over: bool = False  # left by an exception; what workers still do for it is of no use to anyone


@dataclass(frozen=True)
class _Job:
    """What one worker does: some places of a task, or, without one, its preparation."""

    worker: int
    task: _Task | None = None
    places: tuple[int, ...] = ()


class Evaluator:
    """Spreads questions over the workers of ``crew``; a context manager that ends them.

    ``facts``: of every fitness, by name. ``failures``: in words, every candidate that killed its worker
    ``DEATHS_ALLOWED`` times while it was its only one; its value is ``FAILED``.
    """

    def __init__(self, crew: Crew) -> None:
        self.crew = crew
        self.facts: dict[str, Facts] = {}
        self.failures: list[str] = []
        self._seats: dict[int, Seat] = {}
        self._busy: dict[Future[Any], _Job] = {}
        self._stillborn = 0
        self._homes: Recent[Item, int] = Recent(MOST_HOMES, lambda _: 1)

    def __enter__(self) -> Evaluator:
        try:
            for worker, seat in enumerate(self.crew.seats()):
                self._take_seat(worker, seat)
            while not self.facts:
                self._wait()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """End every worker."""
        try:
            for seat in self._seats.values():
                seat.close()
        finally:
            self._seats.clear()
            self._busy.clear()
            self.crew.close()

    @property
    def workers(self) -> int:
        """How many there are now."""
        return len(self._seats)

    def settle(self) -> None:
        """Wait until every worker is ready; they begin as they come otherwise."""
        while self._busy:
            self._wait()

    def values(self, question: Question, items: Sequence[Item], *, may_fail: bool = True) -> FloatArray:
        """One value per item, (N,). With ``may_fail`` false a candidate that no worker survives is a ``UserError``.

        An exception that a worker raises is raised here.
        """
        unique = list(dict.fromkeys(items))
        order = sorted(range(len(unique)), key=lambda place: _sort_key(unique[place]))
        homes = {place: home for place in order if (home := self._homes.get(unique[place])) is not None}
        task = _Task(question, unique, Queues(order, homes, list(self._seats)))
        try:
            while len(task.values) < len(unique):
                self._hand_out(task)
                self._wait()
                if not may_fail and FAILED in task.values.values():
                    raise UserError(f"the search cannot go on: {self.failures[-1]}")
        finally:
            task.is_over = True
        by_item = dict(zip(unique, (task.values[place] for place in range(len(unique))), strict=True))
        return np.array([by_item[item] for item in items], dtype=np.float64)

    def _hand_out(self, task: _Task) -> None:
        """Something to do for every worker that has nothing, while there is something."""
        occupied = {job.worker for job in self._busy.values()}
        for worker in [worker for worker in self._seats if worker not in occupied]:
            if not (places := task.queues.take(worker)):
                return
            try:
                future = self._seats[worker].ask(task.question, [task.items[place] for place in places])
            except self.crew.deaths:  # it died while it had nothing to do, which nobody has to answer for
                task.queues.put_back(places)
                self._refill(worker)
            else:
                self._busy[future] = _Job(worker, task, tuple(places))

    def _wait(self) -> None:
        """Until one worker or more have something to say."""
        done, _ = wait(self._busy, return_when=FIRST_COMPLETED)
        for future in done:
            job = self._busy.pop(future)
            try:
                result = future.result()
            except self.crew.deaths as death:
                self._bury(job, death)
                continue
            if job.task is not None and job.task.is_over:
                continue
            if isinstance(result, Raised):
                raise result.again()
            if job.task is None:
                self.facts, self._stillborn = result, 0
                continue
            job.task.values.update(zip(job.places, result, strict=True))
            for place in job.places:
                self._homes.put(job.task.items[place], job.worker)

    def _bury(self, job: _Job, death: BaseException) -> None:
        """A worker died: its candidates are given to others one by one; who kills alone, twice, has failed."""
        by_itself = not self._seats[job.worker].lost_with_machine()
        if job.task is None:
            self._stillborn += by_itself
            if self._stillborn >= DEATHS_ALLOWED:
                raise UserError(f"workers die while they load the model; is there memory for each? {_first(death)}")
        elif not job.task.is_over:
            self._suspect(job.task, job.places, by_itself)
        log.warning("a worker died (%s); its work is done again", _first(death))
        self._refill(job.worker)

    def _suspect(self, task: _Task, places: tuple[int, ...], by_itself: bool) -> None:
        """Put back what a dead worker had; ``by_itself``: its machine is still there."""
        if by_itself and len(places) == 1:
            (place,) = places
            task.deaths[place] = task.deaths.get(place, 0) + 1
            if task.deaths[place] >= DEATHS_ALLOWED:
                task.values[place] = FAILED
                self._report(task.question, task.items[place])
                return
        task.queues.put_back(places)

    def _refill(self, worker: int) -> None:
        """A new worker in a dead one's place; fewer go on where there is no room for one."""
        lost = self._seats.pop(worker)
        lost.close()
        if lost.lost_with_machine() and self._seats:
            log.warning("its machine is gone; %d workers go on", len(self._seats))
            return
        try:
            self._take_seat(worker, self.crew.replace(lost))
        except UserError as error:
            if not self._seats:
                raise
            log.warning("%s; %d workers go on", error, len(self._seats))

    def _take_seat(self, worker: int, seat: Seat) -> None:
        self._seats[worker] = seat
        try:
            future = seat.prepare()
        except self.crew.deaths as death:  # before it could even be asked
            future = Future()
            future.set_exception(death)
        self._busy[future] = _Job(worker)

    def _report(self, question: Question, item: Item) -> None:
        shown = [[list(group) for group in layer.groups] for layer in item] if isinstance(item, Grouping) else item
        words = f"{question.fitness} killed its worker {DEATHS_ALLOWED} times for {shown}; it counts as failed"
        self.failures.append(words)
        log.warning(words)


def _sort_key(item: Item) -> Any:
    return tuple(layer.labels for layer in item) if isinstance(item, Grouping) else item


def _first(error: BaseException) -> str:
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
