"""A search under way whose number of generations is known: what baselines share."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from typing import Any

import numpy as np

from gqasearch.pairwise import IntArray
from gqasearch.searching._base import SearchMethod
from gqasearch.searching.group_errors import GroupErrors
from gqasearch.searching.problem import Generation, Problem
from gqasearch.searching.record import Record
from gqasearch.searching.state import pack, require_method, restore_rng, save_rng, unpack


class Steps(ABC):
    """A record, a generator, and variables of its own; ``generations`` of them, one after the other.

    ``index``: of the last generation made, -1 before the first.
    """

    def __init__(self, method: SearchMethod, problem: Problem, rng: np.random.Generator, generations: int) -> None:
        self.name, self.problem, self.rng = method.name, problem, rng
        self.record = Record(problem)
        self.total = generations
        self.index = -1

    @property
    def errors(self) -> GroupErrors:
        """The error of the only layer, for methods that take sums over groups."""
        if self.problem.layer_errors is None or self.problem.num_layers != 1:
            raise ValueError(f"{self.name} searches one layer of a sum over groups; start it by run_search")
        return self.problem.layer_errors[0]

    def start(self) -> None:  # noqa: B027 - some need nothing
        """Before generation 0; not called when a search goes on."""

    @abstractmethod
    def advance(self) -> None:
        """One generation; at least one candidate is known after it."""

    def variables(self) -> dict[str, Any]:
        """What ``advance`` needs beside the record and the generator, as of now, JSON-able."""
        return {}

    def restore(self, variables: dict[str, Any]) -> None:  # noqa: B027 - some need nothing
        """Take up saved variables."""

    def generations(self, state: dict[str, Any] | None) -> Iterator[Generation]:
        """As :meth:`SearchMethod.search` promises."""
        if state is None:
            self.start()
        else:
            self._load(state)
            if self.index + 1 >= self.total:
                yield self._generation()
        while self.index + 1 < self.total:
            self.advance()
            self.index += 1
            yield self._generation()

    def _generation(self) -> Generation:
        snapshot = self.record.snapshot()
        best = snapshot.best.candidate
        frozen = {
            "method": self.name,
            "generation": self.index,
            "rng": save_rng(self.rng),
            "variables": self.variables(),
        }

        def state() -> dict[str, Any]:
            return {**frozen, "record": self.record.save(snapshot)}

        return Generation(self.index, snapshot.evaluations, best, (best,), state)

    def _load(self, state: dict[str, Any]) -> None:
        require_method(state, self.name)
        self.index = state["generation"]
        self.record.load(state["record"])
        restore_rng(self.rng, state["rng"])
        self.restore(state["variables"])


def pack_labels(labels: IntArray) -> str:
    """Labels, (N, H), as text; two little-endian bytes each."""
    return pack(labels.astype("<u2").tobytes())


def unpack_labels(text: str, width: int) -> IntArray:
    """The inverse of :func:`pack_labels`; ``width``: H."""
    return np.frombuffer(unpack(text), dtype="<u2").astype(np.int64).reshape(-1, width)
