"""A general stop: what a search may cost before it begins no further generation."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from gqasearch.searching._base import SearchMethod
from gqasearch.searching.problem import Candidate, Generation, Problem
from gqasearch.searching.state import load_candidate, save_candidate

# Where the state of a generation that a limit ended keeps that generation.
LAST = "last"


@dataclass(frozen=True)
class Limit:
    """No generation begins once ``evaluations`` were made or ``seconds`` have passed; None for no limit.

    The generation under way is finished, so a search may cost somewhat more. One that goes by layer, or by layer and
    number of groups, has an equal share for each of them. Seconds are counted from where a search was started or
    went on; with them a result depends on the machine.
    """

    evaluations: int | None = None
    seconds: float | None = None

    def share(self, parts: int) -> Limit:
        """An equal part of it, at least one evaluation."""
        evaluations = None if self.evaluations is None else max(1, self.evaluations // parts)
        return Limit(evaluations, None if self.seconds is None else self.seconds / parts)

    def search(
        self, method: SearchMethod, problem: Problem, rng: np.random.Generator, state: dict[str, Any] | None = None
    ) -> Iterator[Generation]:
        """As ``method.search``, ended here; the state of the last generation gives that generation again."""
        if state is not None and LAST in state:
            yield _again(state)
            return
        started = time.monotonic()
        for generation in method.search(problem, rng, state):
            if self._is_reached(generation.evaluations, time.monotonic() - started):
                yield replace(generation, state=_ended(generation))
                return
            yield generation

    def _is_reached(self, evaluations: int, seconds: float) -> bool:
        enough = self.evaluations is not None and evaluations >= self.evaluations
        return enough or (self.seconds is not None and seconds >= self.seconds)


NO_LIMIT = Limit()


def _ended(generation: Generation) -> Callable[[], dict[str, Any]]:
    """The generation's state and the generation itself: a method gives none again from where it would go on."""

    def state() -> dict[str, Any]:
        last = {
            "index": generation.index,
            "evaluations": generation.evaluations,
            "best": _save(generation.best),
            "front": [_save(candidate) for candidate in generation.front],
        }
        return {**generation.state(), LAST: last}

    return state


def _again(state: dict[str, Any]) -> Generation:
    last = state[LAST]
    front = tuple(map(_load, last["front"]))
    return Generation(last["index"], last["evaluations"], _load(last["best"]), front, lambda: state)


def _save(candidate: Candidate) -> dict[str, Any]:
    return {**save_candidate(candidate), "final": candidate.final}


def _load(saved: dict[str, Any]) -> Candidate:
    return replace(load_candidate(saved), final=saved["final"])
