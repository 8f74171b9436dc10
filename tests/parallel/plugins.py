"""A fitness that fails in the ways that a plug-in can; workers import it from here."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from gqasearch.errors import UserError
from gqasearch.fitness import Fitness, FitnessContext, FloatArray, PreparedTextFitness
from gqasearch.grouping import Grouping
from gqasearch.merging import Need
from gqasearch_fitness.perplexity import Perplexity


def code(grouping: Grouping) -> str:
    """A grouping as one word."""
    return "-".join("".join(map(str, layer.labels)) for layer in grouping)


class UnsendableError(Exception):
    """Cannot be made again from its own arguments, as many libraries' errors cannot."""

    def __init__(self, one: str, two: str) -> None:
        super().__init__(one + two)


@dataclass(frozen=True)
class Faulty(Fitness):
    """Perplexity, but ``deadly`` groupings kill the process (once, where ``mark`` is a folder that keeps count).

    ``refused`` is a user's error and ``broken`` another's. ``pause``: seconds per candidate;
    every one leaves a file in ``mark``.
    """

    name: ClassVar[str] = "faulty"
    reference: ClassVar[str] = "https://example.org"
    needs: ClassVar[Need] = "forward"
    summary: ClassVar[str] = "perplexity, with faults"

    deadly: tuple[str, ...] = ()
    refused: str = ""
    broken: str = ""
    mark: str = ""
    pause: float = 0.0

    def prepare(self, context: FitnessContext) -> PreparedFaulty:
        return PreparedFaulty(self, context)


class PreparedFaulty(PreparedTextFitness):
    def __init__(self, parameters: Faulty, context: FitnessContext) -> None:
        self.parameters = parameters
        self.inner = Perplexity(tokens=600, refit_tokens=0).prepare(context)
        self.batch_tokens = self.inner.batch_tokens

    def evaluate_batches(self, groupings: Sequence[Grouping], batches: Sequence[int]) -> FloatArray:
        for grouping in groupings:
            self._meet(code(grouping))
        return self.inner.evaluate_batches(groupings, batches)

    def _meet(self, word: str) -> None:
        asked = self.parameters
        if asked.refused == word:
            raise UserError(f"{word} is not allowed")
        if asked.broken == word:
            raise UnsendableError(word, " is broken")
        seen = bool(asked.mark) and (Path(asked.mark) / word).exists()
        if asked.mark:
            (Path(asked.mark) / word).touch()
        time.sleep(asked.pause)
        if word in asked.deadly and not seen:
            os.kill(os.getpid(), signal.SIGKILL)
