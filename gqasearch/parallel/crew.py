"""The contract of what runs workers: plain processes, or Ray."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from concurrent.futures import Future

from gqasearch.contract import Item, Question
from gqasearch.parallel.worker import Answer, Prepared


class Seat(ABC):
    """One worker, seen from the parent. Its futures raise one of ``Crew.deaths`` when it is no more."""

    @abstractmethod
    def prepare(self) -> Future[Prepared]:
        """Load the model; asked once, before anything else."""

    @abstractmethod
    def ask(self, question: Question, items: Sequence[Item]) -> Future[Answer]:
        """Values of these items; one question at a time."""

    @abstractmethod
    def close(self) -> None:
        """End the worker now, whatever it does; also one that is dead."""

    def lost_with_machine(self) -> bool:
        """True when a dead worker's whole machine is gone, which no candidate did."""
        return False


class Crew(ABC):
    """Where workers come from.

    ``deaths``: exceptions that say that a worker died; ``seats``: those it begins with.
    """

    deaths: tuple[type[BaseException], ...]

    @abstractmethod
    def seats(self) -> list[Seat]:
        """The first workers, one or more. Raises ``UserError`` when there is no room for any."""

    @abstractmethod
    def replace(self, lost: Seat) -> Seat:
        """A new worker for one that died. Raises ``UserError`` when there is no room any more."""

    @abstractmethod
    def close(self) -> None:
        """End what is shared by workers; called after every seat is closed."""
