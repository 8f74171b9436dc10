"""A perplexity that kills its worker once, half-way, for ``workers``."""

from __future__ import annotations

import os
import signal
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from gqasearch.fitness import FitnessContext, FloatArray, PreparedTextFitness
from gqasearch.grouping import Grouping
from gqasearch_fitness.perplexity import Perplexity


@dataclass(frozen=True)
class KilledHalfway(Perplexity):
    """``folder``: where every candidate met leaves a file; who leaves number ``at`` is killed, once."""

    name: ClassVar[str] = "killed-halfway"

    folder: str = ""
    at: int = 1

    def prepare(self, context: FitnessContext) -> PreparedKilled:  # type: ignore[override]
        return PreparedKilled(self, context)


class PreparedKilled(PreparedTextFitness):
    """Values are those of ``perplexity``."""

    def __init__(self, parameters: KilledHalfway, context: FitnessContext) -> None:
        self.inner = Perplexity.prepare(parameters, context)
        self.batch_tokens = self.inner.batch_tokens
        self.folder, self.at = Path(parameters.folder), parameters.at

    def evaluate_batches(self, groupings: Sequence[Grouping], batches: Sequence[int]) -> FloatArray:
        for grouping in groupings:
            (self.folder / f"{hash(grouping)}").touch()
            if len(list(self.folder.iterdir())) >= self.at and not self._was_killed():
                os.kill(os.getpid(), signal.SIGKILL)
        return self.inner.evaluate_batches(groupings, batches)

    def _was_killed(self) -> bool:
        """False once."""
        try:
            (self.folder.parent / "killed").touch(exist_ok=False)
        except FileExistsError:
            return True
        return False
