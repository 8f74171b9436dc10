"""Errors in Python's words: what a command calls ``--kv-bits`` is the argument ``kv_bits``."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager

from gqasearch.errors import UserError

FLAG = re.compile(r"--(no-)?((?!set\b|help\b)[a-z]+(?:-[a-z]+)*)")


@contextmanager
def python_words() -> Iterator[None]:
    """Within it, or in a function that it decorates, a ``UserError`` names arguments where it would name flags."""
    try:
        yield
    except UserError as error:
        error.args = (in_python(str(error)),)
        raise


def in_python(text: str) -> str:
    """The same text about arguments.

    >>> in_python("--kv-bits 5: leave it out, or give --no-materialize")
    'kv_bits 5: leave it out, or give materialize=False'
    """
    return FLAG.sub(lambda flag: flag[2].replace("-", "_") + ("=False" if flag[1] else ""), text)
