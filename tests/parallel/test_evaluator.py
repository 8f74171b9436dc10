"""The rules of workers' deaths, on workers that are threads and die by exception."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from concurrent.futures import Future

import pytest

from gqasearch.contract import Facts, Item, Question
from gqasearch.errors import UserError
from gqasearch.parallel.crew import Crew, Seat
from gqasearch.parallel.evaluator import Evaluator
from gqasearch.parallel.worker import Answer, Prepared
from gqasearch.searching import FAILED

ITEMS = [(head,) for head in range(40)]
QUESTION = Question("any", "groups", (0,))


class Death(Exception):  # noqa: N818 - what it is
    """Of a worker."""


class Thread(Seat):
    """Answers with the head; each call in a thread of its own."""

    def __init__(self, crew: Threads) -> None:
        self.crew, self.is_lost, self.is_closed = crew, False, False

    def prepare(self) -> Future[Prepared]:
        def work() -> Prepared:
            if self.crew.stillborn:
                raise Death("no memory")
            return {"any": Facts("group")}

        return _started(work)

    def ask(self, question: Question, items: Sequence[Item]) -> Future[Answer]:
        def work() -> Answer:
            if self.crew.dooms_all:
                raise Death("killed")
            self.crew.asked.append([item[0] for item in items])
            for item in items:
                if self.crew.deadly.get(item[0], 0) > 0:
                    self.crew.deadly[item[0]] -= 1
                    self.is_lost = self.crew.with_machine
                    raise Death("killed")
            return tuple(float(item[0]) for item in items)

        return _started(work)

    def close(self) -> None:
        self.is_closed = True

    def lost_with_machine(self) -> bool:
        return self.is_lost


def _started(work: object) -> Future[object]:
    future: Future[object] = Future()

    def run() -> None:
        try:
            future.set_result(work())
        except Exception as error:  # noqa: BLE001
            future.set_exception(error)

    threading.Thread(target=run).start()
    return future


class Threads(Crew):
    deaths = (Death,)

    def __init__(self, count: int, deadly: dict[int, int] | None = None, *, dooms_all: bool = False) -> None:
        self.count, self.deadly, self.dooms_all = count, deadly or {}, dooms_all
        self.stillborn = self.with_machine = False
        self.room = 1000
        self.made: list[Thread] = []
        self.asked: list[list[int]] = []
        self.is_closed = False

    def seats(self) -> list[Seat]:
        self.made = [Thread(self) for _ in range(self.count)]
        return list(self.made)

    def replace(self, lost: Seat) -> Seat:
        if self.room == 0:
            raise UserError("no room")
        self.room -= 1
        self.made.append(Thread(self))
        return self.made[-1]

    def close(self) -> None:
        self.is_closed = True


@pytest.mark.parametrize("workers", [1, 2, 5])
def test_values_come_in_the_order_asked(workers: int) -> None:
    crew = Threads(workers)
    with Evaluator(crew) as evaluator:
        backwards = [*ITEMS[::-1], (3,)]
        assert evaluator.values(QUESTION, backwards).tolist() == [float(head) for (head,) in backwards]
    assert sorted(head for chunk in crew.asked for head in chunk) == list(range(40)), "asked twice"
    assert crew.is_closed and all(seat.is_closed for seat in crew.made)


@pytest.mark.parametrize("deaths", [1, 2])
def test_who_kills_in_company_is_tried_alone(deaths: int) -> None:
    """The first death may be anyone's of the chunk; one death alone is forgiven."""
    crew = Threads(2, {7: deaths})
    with Evaluator(crew) as evaluator:
        assert evaluator.values(QUESTION, ITEMS).tolist() == [float(head) for (head,) in ITEMS]
        assert evaluator.workers == 2 and not evaluator.failures
    assert len(crew.made) == 2 + deaths and all(seat.is_closed for seat in crew.made)
    assert [7] in crew.asked


def test_who_kills_twice_alone_has_failed() -> None:
    crew = Threads(2, {7: 1000, 30: 1000})
    with Evaluator(crew) as evaluator:
        found = evaluator.values(QUESTION, ITEMS).tolist()
        assert [head for head in range(40) if found[head] == FAILED] == [7, 30]
        assert sum(value for value in found if value < FAILED) == sum(range(40)) - 37
        assert len(evaluator.failures) == 2
    assert len(crew.made) <= 2 + 2 * 3
    with Evaluator(Threads(2, {7: 1000})) as evaluator, pytest.raises(UserError, match="killed its worker 2 times"):
        evaluator.values(QUESTION, ITEMS, may_fail=False)


def test_workers_that_die_while_they_load_are_an_error() -> None:
    crew = Threads(1)
    crew.stillborn = True
    with pytest.raises(UserError, match=r"die while they load the model.*no memory"), Evaluator(crew):
        pass
    assert crew.is_closed and len(crew.made) == 2 and all(seat.is_closed for seat in crew.made)


def test_a_lost_machine_is_nobodys_fault_and_its_worker_is_not_replaced() -> None:
    crew = Threads(3, {7: 1})
    crew.with_machine = True
    with Evaluator(crew) as evaluator:
        assert evaluator.values(QUESTION, ITEMS[:9]).tolist() == [float(head) for head in range(9)]
        assert evaluator.workers == 2 and len(crew.made) == 3
        # The last worker is replaced, for as long as there is room.
        crew.deadly = {7: 4}
        assert evaluator.values(QUESTION, ITEMS[:9]).tolist() == [float(head) for head in range(9)]
        crew.deadly, crew.room = {7: 1000}, 0
        with pytest.raises(UserError, match="no room"):
            evaluator.values(QUESTION, ITEMS[:9])


def test_fewer_workers_go_on_where_there_is_no_room() -> None:
    crew = Threads(3, {7: 1, 20: 1})
    crew.room = 0
    with Evaluator(crew) as evaluator:
        assert evaluator.values(QUESTION, ITEMS).tolist() == [float(head) for (head,) in ITEMS]
        assert evaluator.workers == 1
