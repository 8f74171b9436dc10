"""The contract of a search method."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass, fields
from typing import Any, ClassVar

import numpy as np

from gqasearch.search.problem import Generation, Problem


@dataclass(frozen=True)
class SearchMethod(ABC):
    """A way to look for good groupings; its dataclass fields are its parameters.

    ``name``: how it is asked for; ``reference``: URL of the paper or page; ``summary``: one line for
    ``gqasearch ls methods``; ``multi_objective``: whether it takes more than one objective.
    """

    name: ClassVar[str]
    reference: ClassVar[str]
    summary: ClassVar[str]
    multi_objective: ClassVar[bool] = False

    @abstractmethod
    def search(
        self, problem: Problem, rng: np.random.Generator, state: dict[str, Any] | None = None
    ) -> Iterator[Generation]:
        """Yield generations until done. With ``state`` (of a yielded generation) it goes on from there:
        the generations that follow have the same bits as if it had never stopped. ``rng`` is then
        set to where it was.
        """

    def most_generations(self) -> int | None:
        """Generations that one search yields at most; None when it cannot be told."""
        return None

    def parameters(self) -> dict[str, Any]:
        """Field name -> value, as written to grouping.json."""
        return {field.name: getattr(self, field.name) for field in fields(self)}
