from __future__ import annotations

import io
import re
import time

import pytest
from rich.console import Console

from gqasearch.reporting import HistoryPoint, SearchProgress
from gqasearch.reporting.progress_lines import ProgressLines


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


class Clock:
    """Seconds that pass when told."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def lines_at(steps: list[tuple[float, tuple[object, ...]]], seconds: float) -> list[tuple[float, str]]:
    """What a log shows, and when: ``steps`` are (second, arguments of stage or update)."""
    file, clock, found = io.StringIO(), Clock(), list[tuple[float, str]]()
    lines = ProgressLines(file, clock=clock)
    todo = list(steps)
    for quarter in range(int(4 * seconds) + 1):
        clock.now = 100.0 + quarter / 4
        while todo and todo[0][0] <= quarter / 4:
            name, *rest = todo.pop(0)[1]
            lines.stage(str(name), *rest) if isinstance(name, str) else lines.update(name, *rest)
        before = file.tell()
        lines.tick()
        found += [(quarter / 4, line) for line in file.getvalue()[before:].splitlines()]
    return found


def test_a_log_gets_a_line_per_stage_and_one_every_half_minute():
    steps = [(0.0, ("model", None)), (3.0, ("calibration", 256)), (5.0, ("search", 600))]
    steps += [(5.0 + second, (5 * second, f"best {second}")) for second in range(101)]
    found = lines_at(steps, 100)
    assert [when for when, _ in found] == [2.0, 4.0, 6.0, 36.0, 66.0, 96.0]
    assert [line.split()[2] for _, line in found] == ["model", "calibration", "search", "search", "search", "search"]
    # 31 seconds of search, 5 steps a second, 600 in all.
    assert found[3][1] == "gqasearch 0:00:36  search  155/600, best 31, about 0:01:29 left"


def test_the_end_of_what_may_end_early_is_an_upper_limit():
    file, clock = io.StringIO(), Clock()
    lines = ProgressLines(file, delay=0.0, every=0.0, clock=clock)
    lines.stage("search", 600)
    lines.update(0, "")
    clock.now += 31
    lines.update(155, "best 31", may_end_early=True)
    lines.tick()
    assert file.getvalue() == "gqasearch 0:00:31  search  155/600, best 31, at most 0:01:29 left\n"


def test_a_silent_step_is_told_of_too_and_short_stages_are_not():
    flood = [(second / 4, (f"stage {second}", 3)) for second in range(80)]
    found = lines_at([*flood, (20.0, ("long", None))], 90)
    assert [(when, line.split("  ")[1]) for when, line in found] == [(21.0, "long"), (51.0, "long"), (81.0, "long")]


def test_a_resumed_stage_reckons_from_where_it_goes_on():
    found = lines_at([(0.0, ("heal", 1000)), (10.0, (900, "")), (30.0, (920, ""))], 33)
    assert found[-1][1] == "gqasearch 0:00:32  heal  920/1,000, about 0:01:28 left"


def test_a_pipe_sees_plain_lines_whatever_colours_are_forced():
    for forced in (None, True):
        file = io.StringIO()
        run_stages(SearchProgress(Console(file=file, force_terminal=forced), delay=0.0), pause=1.5)
        assert re.fullmatch(
            r"gqasearch 0:00:0\d  search \[layer by layer\]  3/10, best 0.25 .*1,234 evaluations.*\n", file.getvalue()
        )
        assert not {"\r", "\x1b"} & set(file.getvalue())


def test_a_reader_that_went_away_ends_nothing():
    file = io.StringIO()
    lines = ProgressLines(file, delay=0.0, every=0.0)
    lines.stage("search", 3)
    file.close()
    lines.tick()


def test_quiet_sees_nothing(terminal):
    file = io.StringIO()
    run_stages(SearchProgress(Console(file=file), quiet=True, delay=0.0), pause=0.2)
    assert file.getvalue() == ""
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
