"""What every stage of a run takes, added up over its restarts: seconds, CPU seconds, peaks of memory."""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from gqasearch.files import read_json, write_json
from gqasearch.reporting import HistoryPoint
from gqasearch.run.peak_memory import PeakMemory, take_device_peak
from gqasearch.steps.progress import Progress

LOAD = "load"  # until the first stage begins, and before the evaluation: models
SAVE_SECONDS = 5.0  # at most this much is lost to a kill


@dataclass
class Taken:
    """By one stage. ``cpu_seconds``: of all threads here. Peaks in bytes; ``device_peak``: of accelerators."""

    seconds: float = 0.0
    cpu_seconds: float = 0.0
    peak: int = 0
    device_peak: int = 0


class StageClock:
    """Passes a run's progress on to ``shown`` and notes, in ``path``, what every stage took. ``close`` it."""

    def __init__(self, shown: Progress, path: Path) -> None:
        self._shown, self._path = shown, path
        before = read_json(path) if path.is_file() else {}
        self._stages = {name: Taken(**taken) for name, taken in before.items()}
        self._stage = LOAD
        self._last = self._saved = time.monotonic()
        self._cpu, self._memory = time.process_time(), PeakMemory()

    def stage(self, name: str, total: int | None = None) -> None:
        """The stage before ends here."""
        self.note()
        self._stage = name.partition(":")[0]
        self._shown.stage(name, total)

    def update(self, completed: int, point: HistoryPoint | None = None, detail: str = "") -> None:
        if time.monotonic() - self._saved > SAVE_SECONDS:
            self.note()
        self._shown.update(completed, point, detail)

    def note(self) -> dict[str, Taken]:
        """Write down where the clock stands, by stage."""
        now, cpu = time.monotonic(), time.process_time()
        taken = self._stages.setdefault(self._stage, Taken())
        taken.seconds += now - self._last
        taken.cpu_seconds += cpu - self._cpu
        taken.peak = max(taken.peak, self._memory.take())
        taken.device_peak = max(taken.device_peak, take_device_peak())
        self._last = self._saved = now
        self._cpu = cpu
        write_json(self._path, {name: asdict(one) for name, one in self._stages.items()}, overwrite=True)
        return dict(self._stages)

    def close(self) -> None:
        """Write down where the clock stands at the end."""
        self.note()
        self._memory.close()


def stage_records(progress: Progress, searching: float) -> dict[str, dict[str, Any]]:
    """As ``metrics.json`` has them: ``seconds`` of every stage so far with their sum as ``all``; ``cpu_seconds``, of
    this process alone; ``peak_bytes`` of its memory, and ``device_peak_bytes`` where there is an accelerator.

    ``searching``: seconds of the search by its own state, which a kill takes less of.
    """
    noted = progress.note() if isinstance(progress, StageClock) else {}
    seconds = {**{name: taken.seconds for name, taken in noted.items()}, "search": searching}
    devices = {name: taken.device_peak for name, taken in noted.items()}
    return {
        "seconds": {**seconds, "all": sum(seconds.values())},
        "cpu_seconds": {name: taken.cpu_seconds for name, taken in noted.items()},
        "peak_bytes": {name: taken.peak for name, taken in noted.items()},
        **({"device_peak_bytes": devices} if any(devices.values()) else {}),
    }
