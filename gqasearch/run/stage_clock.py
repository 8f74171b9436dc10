"""Seconds of every stage of a run, added up over its restarts."""

from __future__ import annotations

import time
from pathlib import Path

from gqasearch.files import read_json, write_json
from gqasearch.reporting import HistoryPoint
from gqasearch.run.workspace import Progress

LOAD = "load"  # until the first stage begins, and before the evaluation: models
SAVE_SECONDS = 5.0  # at most this much is lost to a kill


class StageClock:
    """Passes a run's progress on to ``shown`` and notes, in ``path``, how long every stage took."""

    def __init__(self, shown: Progress, path: Path) -> None:
        self._shown, self._path = shown, path
        before = read_json(path) if path.is_file() else {}
        self._seconds = {name: float(seconds) for name, seconds in before.items()}
        self._stage, self._last, self._saved = LOAD, time.monotonic(), time.monotonic()

    def stage(self, name: str, total: int | None = None) -> None:
        """The stage before ends here."""
        self.note()
        self._stage = name.partition(":")[0]
        self._shown.stage(name, total)

    def update(self, completed: int, point: HistoryPoint | None = None, detail: str = "") -> None:
        if time.monotonic() - self._saved > SAVE_SECONDS:
            self.note()
        self._shown.update(completed, point, detail)

    def note(self) -> dict[str, float]:
        """Write down where the clock stands: stage -> seconds."""
        now = time.monotonic()
        self._seconds[self._stage] = self._seconds.get(self._stage, 0.0) + now - self._last
        self._last = self._saved = now
        write_json(self._path, self._seconds, overwrite=True)
        return dict(self._seconds)


def stage_seconds(progress: Progress, searching: float) -> dict[str, float]:
    """As ``metrics.json`` has them: every stage so far, and their sum as ``all``.

    ``searching``: seconds of the search by its own state, which a kill takes less of.
    """
    noted = progress.note() if isinstance(progress, StageClock) else {}
    stages = {**noted, "search": searching}
    return {**stages, "all": sum(stages.values())}
