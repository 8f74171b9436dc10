"""What a user sees: one message for a mistake, JSON for machines, and no noise from libraries."""

from __future__ import annotations

import errno
import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import typer

from gqasearch.errors import UserError
from gqasearch.grouping import GroupingError
from gqasearch.libraries import quiet_libraries as quiet_libraries

if TYPE_CHECKING:
    from rich.console import Console

USER_ERROR, INTERRUPTED = 2, 130
_OF_THE_DISK = (errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EROFS, errno.EIO)


@contextmanager
def clear_errors(*, resumable: bool = False) -> Iterator[None]:
    """Turn a user's mistake, a file that cannot be read or written, or Ctrl-C into one message and a non-zero exit."""
    try:
        yield
    except (UserError, GroupingError) as error:
        _stop(str(error), USER_ERROR)
    except KeyboardInterrupt:
        _stop("stopped; the same command goes on from here" if resumable else "stopped", INTERRUPTED)
    except OSError as error:
        if error.errno == errno.EPIPE or (error.filename is None and error.errno not in _OF_THE_DISK):
            raise  # a reader that left, which the application ends on quietly; or no file of the user's
        what = "write" if error.filename is None else f"read or write {error.filename}"
        _stop(f"cannot {what}: {error.strerror or error}", USER_ERROR)


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
