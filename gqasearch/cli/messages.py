"""What a user sees: one message for a mistake, JSON for machines, and no noise from libraries."""

from __future__ import annotations

import errno
import json
import logging
import os
import signal
import sys
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import typer

from gqasearch.errors import Terminated, UserError
from gqasearch.grouping import GroupingError

if TYPE_CHECKING:
    from rich.console import Console

USER_ERROR, INTERRUPTED, TERMINATED = 2, 130, 143


@contextmanager
def clear_errors(*, resumable: bool = False) -> Iterator[None]:
    """Turn a user's mistake, a full disk, Ctrl-C or SIGTERM into one message and a non-zero exit."""
    try:
        with stopped_by_sigterm():
            yield
    except (UserError, GroupingError) as error:
        _stop(str(error), USER_ERROR)
    except KeyboardInterrupt as stop:
        code = TERMINATED if isinstance(stop, Terminated) else INTERRUPTED
        _stop("stopped; the same command goes on from here" if resumable else "stopped", code)
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EROFS):
            raise
        _stop(f"cannot write: {error}", USER_ERROR)


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


def quiet_libraries(verbose: int) -> None:
    """Silence progress bars and advice of transformers and the hub; ``verbose`` of 2 or more lets them speak."""
    if verbose >= 2:
        return
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    warnings.filterwarnings("ignore", module="transformers")
    from transformers.utils import logging as transformers_logging

    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    logging.getLogger("huggingface_hub").setLevel(logging.ERROR)


def output_console() -> Console:
    """Standard output for tables: as wide as the terminal, 100 columns in a pipe."""
    from rich.console import Console

    return Console() if sys.stdout.isatty() else Console(width=100)


def print_json(value: dict[str, Any]) -> None:
    """One JSON object on standard output."""
    typer.echo(json.dumps(value, indent=1))
