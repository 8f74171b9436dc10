from __future__ import annotations

import io
import re
import time

import pytest
from rich.console import Console

from gqasearch.reporting import HistoryPoint, SearchProgress


class Terminal(io.StringIO):
    """A file that says it is a terminal."""

    def isatty(self) -> bool:
        return True


def run_stages(progress: SearchProgress, pause: float = 0.0) -> None:
    with progress:
        progress.stage("calibration", total=4)
        progress.update(4)
        progress.stage("search [layer by layer]", total=10)
        progress.update(3, HistoryPoint(generation=3, evaluations=1234, best=0.25, seconds=1.0))
        time.sleep(pause)


def shown(file: io.StringIO) -> str:
    return re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", file.getvalue())


@pytest.fixture
def terminal(monkeypatch) -> Terminal:
    monkeypatch.setenv("TERM", "xterm")
    return Terminal()


def test_a_terminal_sees_stage_generation_evaluations_and_best(terminal):
    run_stages(SearchProgress(Console(file=terminal, force_terminal=True, width=160), delay=0.0), pause=0.4)
    text = shown(terminal)
    for words in (
        "calibration",
        "4/4",
        "search [layer by layer]",
        "3/10",
        "generation 3",
        "1,234 evaluations",
        "best 0.25",
    ):
        assert words in text


def test_a_narrow_terminal_keeps_stage_count_and_best(terminal):
    run_stages(SearchProgress(Console(file=terminal, force_terminal=True, width=80), delay=0.0), pause=0.4)
    text = shown(terminal)
    for words in ("search [layer by layer]", "3/10", "ETA", "best 0.25"):
        assert words in text


def test_a_pipe_sees_nothing():
    file = io.StringIO()
    run_stages(SearchProgress(Console(file=file), delay=0.0), pause=0.2)
    assert file.getvalue() == ""


def test_forced_colour_does_not_make_a_pipe_a_terminal():
    file = io.StringIO()
    run_stages(SearchProgress(Console(file=file, force_terminal=True), delay=0.0), pause=0.2)
    assert file.getvalue() == ""


def test_quiet_sees_nothing(terminal):
    run_stages(SearchProgress(Console(file=terminal, force_terminal=True), quiet=True, delay=0.0), pause=0.2)
    assert terminal.getvalue() == ""


def test_a_quick_command_shows_none(terminal):
    run_stages(SearchProgress(Console(file=terminal, force_terminal=True), delay=5.0))
    assert terminal.getvalue() == ""


def test_an_error_inside_goes_through_and_the_cursor_comes_back(terminal):
    def interrupted() -> None:
        with SearchProgress(Console(file=terminal, force_terminal=True), delay=0.0) as progress:
            progress.stage("search")
            time.sleep(0.2)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert terminal.getvalue().rindex("\x1b[?25h") > terminal.getvalue().rindex("\x1b[?25l")


def test_update_before_any_stage_is_harmless(terminal):
    with SearchProgress(Console(file=terminal, force_terminal=True), delay=5.0) as progress:
        progress.update(1)
    assert terminal.getvalue() == ""
