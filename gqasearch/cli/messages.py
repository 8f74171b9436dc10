"""What a user sees: one message for a mistake, JSON for machines, and no noise from libraries."""

from __future__ import annotations

import errno
import json
import logging
import os
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import typer

from gqasearch.errors import UserError
from gqasearch.grouping import GroupingError

if TYPE_CHECKING:
    from rich.console import Console

USER_ERROR, INTERRUPTED = 2, 130


@contextmanager
def clear_errors(*, resumable: bool = False) -> Iterator[None]:
    """Turn a user's mistake, a full disk or Ctrl-C into one message and a non-zero exit.

    A process that was started with SIGINT ignored (nohup, ``&`` in a script) leaves it ignored, as Python does:
    Ctrl-C is then meant for what runs in the foreground.
    """
    try:
        yield
    except (UserError, GroupingError) as error:
        _stop(str(error), USER_ERROR)
    except KeyboardInterrupt:
        _stop("stopped; the same command goes on from here" if resumable else "stopped", INTERRUPTED)
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EROFS):
            raise
        _stop(f"cannot write: {error}", USER_ERROR)


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
