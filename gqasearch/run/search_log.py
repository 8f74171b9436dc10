"""What a search leaves in its folder while under way: a line of history per generation, and a state to go on from."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Any

from gqasearch.files import write_file
from gqasearch.run.folder import RunFolder
from gqasearch.searching import Generation

STATE_SECONDS = 1.0  # at most this much of a search is lost to a kill


class SearchLog:
    """Lines are written at once, the state at most once in ``STATE_SECONDS``.

    ``stored``: the state that the search goes on from. ``failures``: the candidates that killed their workers since, in
    words. ``forward_tokens``: tokens run through the model since; None where others ran some, who are not counted.
    """

    def __init__(
        self,
        folder: RunFolder,
        stored: dict[str, Any],
        failures: Callable[[], Sequence[str]],
        forward_tokens: Callable[[], float | None],
    ) -> None:
        self.folder, self.stored = folder, stored
        self._failures, self._forward_tokens = failures, forward_tokens
        self._lines: list[str] = list(stored.get("history", []))
        self._before = float(stored.get("seconds", 0.0))
        self._started, self._saved = time.monotonic(), -STATE_SECONDS

    def __enter__(self) -> SearchLog:
        write_file(self.folder.history, "".join(line + "\n" for line in self._lines), overwrite=True)
        self._file = self.folder.history.open("a", encoding="utf-8")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()

    @property
    def seconds(self) -> float:
        """Of searching so far, restarts included."""
        return self._before + time.monotonic() - self._started

    def add(self, generation: Generation) -> dict[str, Any]:
        """Write a generation's line, and the state if that is due; the line as a record."""
        record = _record(generation, self.seconds)
        self._lines.append(json.dumps(record, allow_nan=False))
        self._file.write(self._lines[-1] + "\n")
        self._file.flush()
        if time.monotonic() - self._started - self._saved >= STATE_SECONDS:
            self.save(generation)
        return record

    def save(self, generation: Generation) -> None:
        """Write the state."""
        run, before = self._forward_tokens(), self.stored.get("forward_tokens", 0.0)
        self.folder.write_state(
            {
                "search": generation.state(),
                "history": self._lines,
                "seconds": self.seconds,
                "threads": self.stored["threads"],
                "failed": [*self.stored.get("failed", []), *self._failures()],
                "forward_tokens": None if run is None or before is None else before + run,
            }
        )
        self._saved = time.monotonic() - self._started


def _record(generation: Generation, seconds: float) -> dict[str, Any]:
    record: dict[str, Any] = {
        "generation": generation.index,
        "evaluations": generation.evaluations,
        "best": list(generation.best.values),
        "kv_heads_total": generation.best.grouping.kv_heads_total,
        "seconds": round(seconds, 3),
    }
    if generation.best.final is not None:
        record["final"] = generation.best.final
    return record


def search_seconds(folder: RunFolder) -> float:
    """Seconds that the search took, over all its restarts."""
    return float((folder.read_state() or {}).get("seconds", 0.0))


def search_forward_tokens(folder: RunFolder) -> float | None:
    """Tokens that the search ran through the model, over all its restarts; None where it had workers that are not
    counted. See ``ForwardCount``.
    """
    tokens: float | None = (folder.read_state() or {}).get("forward_tokens", 0.0)
    return tokens


def failed_candidates(folder: RunFolder) -> list[str]:
    """In words, the candidates that killed their workers."""
    return list((folder.read_state() or {}).get("failed", []))
