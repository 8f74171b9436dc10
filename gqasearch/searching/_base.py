"""The contract of a search method."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, ClassVar, Literal, TypeAlias

import numpy as np

from gqasearch.errors import UserError
from gqasearch.searching.problem import Generation, Problem

# What a method may ask to know of the heads, beside the objective: see ``Problem``.
HeadFact: TypeAlias = Literal["similarity", "norms", "guide"]


@dataclass(frozen=True)
class SearchMethod(ABC):
    """A way to look for good groupings; its dataclass fields are its parameters.

    ``name``: how it is asked for; ``reference``: URL of the paper or page; ``summary``: one line for
    ``gqasearch ls methods``. What it can do:

    - ``multi_objective``: takes more than one objective by itself.
    - ``whole_model``: takes any function of whole groupings; without it, only sums over groups
      (``Problem.layer_errors``), of which it is then given one layer at a time.
    - ``by_layer``: wants the layers of a sum one by one where their numbers of groups are fixed.
    - ``traces_curve``: given one layer of a sum with free counts, its front is the error for every number of
      groups; other methods are run once for every number.
    - ``splits_budget``: decides the groups of every layer itself; the budget counts as a total only.
    - ``on_parts``: wants a first objective that runs the model, and measures it on parts of its text
      (``Problem.partial``).
    - ``needs``: what it must know of the heads.
    """

    name: ClassVar[str]
    reference: ClassVar[str]
    summary: ClassVar[str]
    multi_objective: ClassVar[bool] = False
    whole_model: ClassVar[bool] = True
    by_layer: ClassVar[bool] = True
    traces_curve: ClassVar[bool] = False
    splits_budget: ClassVar[bool] = False
    on_parts: ClassVar[bool] = False
    needs: ClassVar[frozenset[HeadFact]] = frozenset()

    @abstractmethod
    def search(self, problem: Problem, rng: np.random.Generator) -> Iterator[Generation]:
        """Yield generations until done, one or more.

        They follow from the problem's values and ``rng`` alone: a search that was stopped goes on by being made again,
        its evaluations answered from a log (``EvaluationLog``). What depends on time asks ``Problem.clock``.
        """

    def most_generations(self, problem: Problem) -> int | None:
        """Generations that one search of ``problem`` yields at most; None when it cannot be told."""
        return None

    def parameters(self) -> dict[str, Any]:
        """Field name -> value, as written to grouping.json."""
        return {field.name: getattr(self, field.name) for field in fields(self)}


def check_parameters(method: SearchMethod, least: Mapping[str, float], chances: Sequence[str] = ()) -> None:
    """Raise ``UserError`` for a number below its ``least`` or not finite, and a chance above 1; None is let through."""
    for name, lowest in least.items():
        value = getattr(method, name)
        if value is not None and not lowest <= value < float("inf"):
            raise UserError(f"{method.name}: {name} must be a number of at least {lowest}, got {value}")
    for name in chances:
        value = getattr(method, name)
        if value is not None and value > 1:
            raise UserError(f"{method.name}: {name} is a chance, at most 1, got {value}")
