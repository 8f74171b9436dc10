"""What a comparison holds side by side: ways to choose a grouping, under one merge and KV ratio at a time."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Condition:
    """The merge and the KV ratio of the models in one table: only models that have both in common are compared."""

    merge: str
    kv_ratio: float

    @property
    def name(self) -> str:
        """Of folders."""
        return f"ratio-{self.kv_ratio:g}/{self.merge}"

    def __str__(self) -> str:
        return f"{self.merge} at {self.kv_ratio:g}"


@dataclass(frozen=True)
class Entry:
    """A way to choose a grouping: a fitness under a method; no fitness for neighbours, who search nothing."""

    fitness: str | None
    method: str

    @property
    def name(self) -> str:
        """Of folders and table keys."""
        return "no-search" if self.fitness is None else f"{self.method}/{self.fitness}"

    @property
    def label(self) -> str:
        """In tables and figures."""
        return "neighbour (no search)" if self.fitness is None else self.fitness
