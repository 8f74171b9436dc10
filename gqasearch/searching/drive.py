"""From a search under way to its generations."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol

from gqasearch.searching.problem import Generation


class SearchRun(Protocol):
    """A search that can start, take one step, and say where it stands."""

    @property
    def is_done(self) -> bool:
        """True when a stopping rule holds."""

    def start(self) -> None:
        """Generation 0."""

    def advance(self) -> None:
        """One generation."""

    def generation(self) -> Generation:
        """This moment."""


def generations_of(run: SearchRun) -> Iterator[Generation]:
    """Every generation from the start."""
    run.start()
    yield run.generation()
    while not run.is_done:
        run.advance()
        yield run.generation()
