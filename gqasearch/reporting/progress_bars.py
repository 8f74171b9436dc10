"""Progress of a long command: a bar per stage on a terminal, plain lines anywhere else."""

from __future__ import annotations

from threading import Lock, Timer
from types import TracebackType
from typing import TextIO, cast

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    SpinnerColumn,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Column

from gqasearch.reporting.data import HistoryPoint
from gqasearch.reporting.progress_lines import ProgressLines


class SearchProgress:
    """A line per stage with its bar, the live best, the time gone and the time left.

        with SearchProgress(Console(stderr=True), quiet=False) as progress:
            progress.stage("search, layer by layer", total=600)
            progress.update(12, HistoryPoint(generation=12, evaluations=480, best=0.31, seconds=2.5))

    It appears only after ``delay`` seconds, and goes when the block is left: a quick command shows none.
    Where ``console`` writes to no terminal, lines stand in its place (``ProgressLines``). With ``quiet`` no method does
    anything.
    """

    def __init__(self, console: Console, *, quiet: bool = False, delay: float = 2.0) -> None:
        self._progress: Progress | None = None
        self._lines: ProgressLines | None = None
        if not quiet and console.is_interactive and console.file.isatty():
            self._progress = _progress(console)
            self._timer = Timer(delay, self._appear)
            self._timer.daemon = True
        elif not quiet:
            self._lines = ProgressLines(cast(TextIO, console.file), delay=delay)
        self._lock = Lock()
        self._closed = False
        self._task: TaskID | None = None

    def __enter__(self) -> SearchProgress:
        if self._progress is not None:
            self._timer.start()
        if self._lines is not None:
            self._lines.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._lines is not None:
            self._lines.stop()
        if self._progress is None:
            return
        self._timer.cancel()
        with self._lock:
            self._closed = True
            self._progress.stop()

    def stage(self, name: str, total: int | None = None) -> None:
        """Begin a stage of ``total`` steps (None: unknown); the one before is over."""
        if self._lines is not None:
            self._lines.stage(name, total)
        if self._progress is None:
            return
        self._finish_stage()
        self._task = self._progress.add_task(name, total=total, detail="", most="")

    def update(self, completed: int, point: HistoryPoint | None = None, detail: str = "") -> None:
        """Steps of the stage done so far, and where its search stands, or other words on it."""
        if point is not None:
            detail = point.words
        if self._lines is not None:
            self._lines.update(completed, detail, may_end_early=point is not None)
        if self._progress is None or self._task is None:
            return
        most = " ≤" if point is not None else ""  # a search ends where it finds nothing better for a while
        self._progress.update(self._task, completed=completed, detail=detail, most=most)

    def _finish_stage(self) -> None:
        if self._progress is None or self._task is None:
            return
        task = self._progress.tasks[self._task]
        total = task.total if task.total is not None else max(task.completed, 1)
        self._progress.update(self._task, total=total, completed=total)

    def _appear(self) -> None:
        # The timer may fire while the block is being left; a display started then would never stop.
        with self._lock:
            if self._progress is not None and not self._closed:
                self._progress.start()


def _progress(console: Console) -> Progress:
    return Progress(
        SpinnerColumn(finished_text="✓"),
        TextColumn("{task.description}", markup=False),
        BarColumn(bar_width=12),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("ETA{task.fields[most]}"),
        TimeRemainingColumn(compact=True),
        # On a narrow terminal this column gives way, from its end; the others stay whole.
        TextColumn("{task.fields[detail]}", markup=False, table_column=Column(ratio=1, no_wrap=True)),
        expand=True,
        console=console,
        transient=True,
        refresh_per_second=4,
    )
