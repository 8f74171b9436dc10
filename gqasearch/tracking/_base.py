"""The contract of a tracker: a listener that shows runs in another tool, and the figures it is told."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import Any, ClassVar

from gqasearch.run import RunListener, RunStart


class Tracker(RunListener):
    """Shows runs in another tool; ``history.jsonl`` stays what the run is resumed and reported from.

    ``package``: what has to be installed for it; the extra of ``gqasearch`` that brings it has the tracker's name.
    """

    name: ClassVar[str]
    package: ClassVar[str]

    @abstractmethod
    def close(self) -> None:
        """Let go of files and connections; called once, also when the run failed or never began."""


class Guarded(RunListener):
    """A tracker whose first failure is told by ``warn``, and which is then left alone: it never ends a run."""

    def __init__(self, tracker: Tracker, warn: Callable[[str], None]) -> None:
        self._tracker = tracker
        self._warn = warn
        self._failed = False

    def on_start(self, start: RunStart) -> None:
        self._try(self._tracker.on_start, start)

    def on_generation(self, record: Mapping[str, Any]) -> None:
        self._try(self._tracker.on_generation, record)

    def on_metrics(self, metrics: Mapping[str, Any]) -> None:
        self._try(self._tracker.on_metrics, metrics)

    def close(self) -> None:
        """Also after a failure, of which nothing more is said."""
        if not self._failed:
            self._try(self._tracker.close)
            return
        with suppress(Exception):
            self._tracker.close()

    def _try(self, call: Callable[..., None], *arguments: Any) -> None:
        if self._failed:
            return
        try:
            call(*arguments)
        except Exception as error:  # noqa: BLE001 - another tool's: a full disk, no network, a refused login
            self._failed = True
            words = str(error).strip().splitlines() or [type(error).__name__]
            self._warn(f"tracking with {self._tracker.name} stopped: {words[0]}. The run and history.jsonl go on")


def generation_scalars(record: Mapping[str, Any], objectives: Sequence[str]) -> dict[str, float]:
    """Figures of one line of the history by name: ``search/best/kl``, ``search/evaluations``, ..."""
    best = {f"search/best/{name}": value for name, value in zip(objectives, record["best"], strict=True)}
    return best | {f"search/{name}": value for name, value in record.items() if name not in ("best", "generation")}


def held_out_scalars(metrics: Mapping[str, Any]) -> dict[str, float]:
    """Figures of ``metrics.json`` by name: ``held-out/parent/perplexity``, ``held-out/converted/kl``, ..."""
    rows = {"parent": metrics["parent"], **metrics["results"]}
    return {
        f"held-out/{subject}/{name}": value
        for subject, row in rows.items()
        for name, value in row.items()
        if isinstance(value, int | float)
    }
