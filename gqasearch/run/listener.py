"""What is told of a run while it runs: trackers, pruners. It decides nothing of the run's result."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class RunStart:
    """A run that begins, or goes on.

    ``history``: the generations that are known already, as ``on_generation`` tells them; the next one follows them.
    """

    folder: Path
    config: Mapping[str, Any]
    history: Sequence[Mapping[str, Any]] = ()


class RunListener:
    """Override what you want to hear of; what a method raises ends the run there, which can be resumed."""

    def on_start(self, start: RunStart) -> None:
        """Once, before any work."""

    def on_generation(self, record: Mapping[str, Any]) -> None:
        """A generation is over. ``record`` is its line of ``history.jsonl``: generation, evaluations, best, ..."""

    def on_metrics(self, metrics: Mapping[str, Any]) -> None:
        """The run is over. ``metrics`` is ``metrics.json``: what was measured on held-out text."""
