"""Processes to be killed: forked from one that has imported everything and run nothing, so that they start at once.

Importing torch and transformers takes a core five seconds, as long as dozens of tests. Everything else is as in a
process that was spawned: what it is given is pickled, and it shares no memory with the tests.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from multiprocessing.context import ForkServerContext, ForkServerProcess
from pathlib import Path
from typing import Any

import pytest

from gqasearch.cli import main

INTERRUPTED = 130
# Imported once, by the process that the others are forked from.
IMPORTED = ["gqasearch.cli.app", "gqasearch.run.heal", "gqasearch.sweeps.sweep_worker", "gqasearch.parallel.worker"]
IMPORTED += ["gqasearch.searching", "tests.tiny_models"]


def context() -> ForkServerContext:
    found = multiprocessing.get_context("forkserver")
    found.set_forkserver_preload(IMPORTED)
    return found


def fork_directly() -> None:
    """From now on this process, which must have a single thread, forks what it would spawn."""
    found = multiprocessing.get_context("fork")
    multiprocessing.get_context = lambda _method=None: found  # type: ignore[assignment]


def start(function: Callable[..., Any], *given: Any, **options: Any) -> ForkServerProcess:
    """``function`` of a module, in a process of its own that hears Ctrl-C and then ends with ``INTERRUPTED``."""
    process = context().Process(target=_run, args=(function, given, options))
    process.start()
    return process


def command(words: Sequence[str | Path], errors: Path) -> None:
    """The command line in this process, to be started; what it says on standard error goes to a file."""
    sys.argv = ["gqasearch", *map(str, words)]
    with errors.open("w", encoding="utf-8") as sys.stderr:
        main()


def _run(function: Callable[..., Any], given: tuple[Any, ...], options: dict[str, Any]) -> None:
    # Ignored, where the tests were started in the background: `make test &`, nohup.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        function(*given, **options)
    except KeyboardInterrupt:
        os._exit(INTERRUPTED)


def end(process: ForkServerProcess, number: signal.Signals = signal.SIGKILL) -> None:
    """Send a signal to a process that must still be running, and wait for its end."""
    assert process.is_alive() and process.pid is not None, f"it ended with {process.exitcode} before it could be killed"
    os.kill(process.pid, number)
    process.join(120)
    assert process.exitcode == (INTERRUPTED if number == signal.SIGINT else -number)


@contextmanager
def for_spawned(truly: bool) -> Iterator[None]:
    """What the code under test spawns meanwhile is forked in the same way, unless it is ``truly`` to be spawned."""
    found = context()
    with pytest.MonkeyPatch.context() as patch:
        if not truly:
            patch.setattr(multiprocessing, "get_context", lambda _method: found)
        yield
