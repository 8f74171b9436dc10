"""What a user sees: one message for a mistake, JSON for machines, and no noise from libraries."""

from __future__ import annotations

import errno
import json
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import typer

from gqasearch.errors import Terminated, UserError
from gqasearch.grouping import GroupingError
from gqasearch.libraries import quiet_libraries as quiet_libraries

if TYPE_CHECKING:
    from rich.console import Console

USER_ERROR, INTERRUPTED, TERMINATED = 2, 130, 143
_OF_THE_DISK = (errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EROFS, errno.EIO)


@contextmanager
def clear_errors(*, resumable: bool = False) -> Iterator[None]:
    """Turn a user's mistake, a file that cannot be read or written, Ctrl-C or SIGTERM into one message and a status.

    A process that was started with SIGINT ignored (nohup, ``&`` in a script) leaves it ignored, as Python does:
    Ctrl-C is then meant for what runs in the foreground.
    """
    try:
        with stopped_by_sigterm():
            yield
    except (UserError, GroupingError) as error:
        _stop(str(error), USER_ERROR)
    except KeyboardInterrupt as stop:
        code = TERMINATED if isinstance(stop, Terminated) else INTERRUPTED
        _stop("stopped; the same command goes on from here" if resumable else "stopped", code)
    except OSError as error:
        if error.errno == errno.EPIPE or (error.filename is None and error.errno not in _OF_THE_DISK):
            raise  # a reader that left, which the application ends on quietly; or no file of the user's
        what = "write" if error.filename is None else f"read or write {error.filename}"
        _stop(f"cannot {what}: {error.strerror or error}", USER_ERROR)


@contextmanager
def stopped_by_sigterm() -> Iterator[None]:
    """Within the block SIGTERM, which schedulers send, raises ``Terminated``, so that nothing half-made is left.

    Where it is ignored or handled already, and outside the main thread, all stays as it is.
    """
    if threading.current_thread() is not threading.main_thread() or signal.getsignal(signal.SIGTERM) != signal.SIG_DFL:
        yield
        return
    signal.signal(signal.SIGTERM, _terminate)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)


def _terminate(*_: object) -> None:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # a second one is not to disturb the clearing up
    raise Terminated


def _stop(message: str, code: int) -> None:
    typer.echo(f"gqasearch: {message}", err=True)
    raise typer.Exit(code)


def output_console() -> Console:
    """Standard output for tables: as wide as the terminal, 100 columns in a pipe."""
    from rich.console import Console

    terminal = sys.stdout is not None and sys.stdout.isatty()  # None: started with standard output closed
    return Console() if terminal else Console(width=100)


def print_json(value: dict[str, Any]) -> None:
    """One JSON object on standard output."""
    typer.echo(json.dumps(value, indent=1))
