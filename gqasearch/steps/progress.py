"""Whom a run tells how far it is."""

from __future__ import annotations

from typing import Protocol

from gqasearch.reporting import HistoryPoint


class Progress(Protocol):
    """What shows a run's progress; ``gqasearch.reporting.SearchProgress`` is one."""

    def stage(self, name: str, total: int | None = None) -> None:
        """Begin a stage of ``total`` steps."""

    def update(self, completed: int, point: HistoryPoint | None = None, detail: str = "") -> None:
        """Steps done so far, and where a search stands, or other words on it."""


class NoProgress:
    """For callers that show nothing."""

    def stage(self, name: str, total: int | None = None) -> None:
        """Nothing."""

    def update(self, completed: int, point: HistoryPoint | None = None, detail: str = "") -> None:
        """Nothing."""
