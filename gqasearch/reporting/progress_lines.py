"""Progress of a long command where there is no terminal: plain lines, for log files and batch systems."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from threading import Event, Lock, Thread
from typing import TextIO

SETTLED = 1.0  # seconds that a stage must last to get a line: hundreds of short ones would bury the others
POLL_SECONDS = 0.25


@dataclass
class _Stage:
    """``first``: steps that were done when it was first heard of, and when; a resumed search begins in the middle."""

    name: str
    total: int | None
    began: float
    first: tuple[int, float] | None = None
    completed: int = 0
    detail: str = ""
    may_end_early: bool = False
    told: bool = False


class ProgressLines:
    """A line when a stage has lasted a second, and one every ``every`` seconds while it lasts.

        gqasearch 0:00:31  search  120/600, best 0.31  generation 120  4,800 evaluations, at most 0:02:10 left

    Nothing is written in the first ``delay`` seconds. ``clock``: seconds that never go back. ``tick`` writes what is
    due; ``start`` has a thread call it, so that lines come also while a step takes minutes.
    """

    def __init__(
        self, file: TextIO, *, delay: float = 2.0, every: float = 30.0, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._file, self._delay, self._every, self._clock = file, delay, every, clock
        self._began = self._last = clock()
        self._stage: _Stage | None = None
        self._lock, self._ended = Lock(), Event()
        self._thread = Thread(target=self._watch, daemon=True, name="progress")

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """No line comes after this."""
        self._ended.set()
        if self._thread.is_alive():
            self._thread.join()

    def stage(self, name: str, total: int | None) -> None:
        with self._lock:
            self._stage = _Stage(name, total, self._clock())

    def update(self, completed: int, detail: str, *, may_end_early: bool = False) -> None:
        """``may_end_early``: before all steps are done, as a search does that finds nothing better."""
        with self._lock:
            if self._stage is not None:
                if self._stage.first is None:
                    self._stage.first = completed, self._clock()
                self._stage.completed, self._stage.detail = completed, detail
                self._stage.may_end_early = may_end_early

    def tick(self) -> None:
        """Write the line that is due, if one is."""
        with self._lock:
            now, stage = self._clock(), self._stage
            if now - self._began < self._delay:
                return
            settled = stage is not None and not stage.told and now - stage.began >= SETTLED
            if settled or now - self._last >= self._every:
                self._last = now
                self._write(now, stage)

    def _write(self, now: float, stage: _Stage | None) -> None:
        words = "at work"
        if stage is not None:
            stage.told = True
            words = f"{stage.name}{_standing(stage, now)}"
        with suppress(OSError, ValueError):  # whoever read it has gone: no reason to end a run
            self._file.write(f"gqasearch {_hours(now - self._began)}  {words}\n")
            self._file.flush()

    def _watch(self) -> None:
        while not self._ended.wait(POLL_SECONDS):
            self.tick()


def _standing(stage: _Stage, now: float) -> str:
    """Steps, figures and the time left of a stage, as far as they are known; begins with two spaces."""
    count = f"{stage.completed:,}" if stage.total is None else f"{stage.completed:,}/{stage.total:,}"
    parts = [count if stage.completed or stage.total is not None else "", stage.detail]
    if stage.total is not None and stage.first is not None and stage.completed > stage.first[0]:
        done, since = stage.completed - stage.first[0], now - (stage.first[1] if stage.first[0] else stage.began)
        left = since / done * max(0, stage.total - stage.completed)
        parts.append(f"{'at most' if stage.may_end_early else 'about'} {_hours(left)} left" if left else "")
    words = ", ".join(part for part in parts if part)
    return f"  {words}" if words else ""


def _hours(seconds: float) -> str:
    """``h:mm:ss``."""
    whole = round(seconds)
    return f"{whole // 3600}:{whole // 60 % 60:02}:{whole % 60:02}"
