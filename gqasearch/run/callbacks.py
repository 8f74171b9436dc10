"""What may follow a run while it is under way: pruners, trackers."""

from __future__ import annotations

from typing import Protocol

from gqasearch.search import Generation


class RunCallback(Protocol):
    """Told of every generation. What it raises ends the run, whose folder can be resumed."""

    def on_generation(self, generation: Generation, seconds: float) -> None:
        """After a generation was written to the history; ``seconds``: of searching so far, restarts included.

        A resumed run tells of the generations that it makes itself, not of those before.
        """
