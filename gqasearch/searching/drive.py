"""From a search under way to its generations."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Protocol

from gqasearch.searching.problem import Generation


class SearchRun(Protocol):
    """A search that can start, go on from a state, take one step, and say where it stands."""

    @property
    def is_done(self) -> bool:
        """True when a stopping rule holds."""

    def start(self) -> None:
        """Generation 0."""

    def load(self, saved: dict[str, Any]) -> None:
        """Go back to where a generation's state was taken."""

    def advance(self) -> None:
        """One generation."""

    def generation(self) -> Generation:
        """This moment."""


def generations_of(run: SearchRun, state: dict[str, Any] | None) -> Iterator[Generation]:
    """Every generation from the start or from ``state``; the state of a finished search gives its last again."""
    if state is None:
        run.start()
    else:
        run.load(state)
    if state is None or run.is_done:
        yield run.generation()
    while not run.is_done:
        run.advance()
        yield run.generation()
