"""Errors that a user can cause and mend. The command line prints them as one message, no traceback."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class UserError(Exception):
    """Something the user gave cannot be used; the message says which, what is allowed, and what to do."""


def unknown_name(kind: str, given: str, allowed: Iterable[str]) -> UserError:
    """The error for a name that is not registered, with the nearest valid one.

    >>> str(unknown_name("fitness", "merge-eror", ["kl", "merge-error"]))
    "unknown fitness 'merge-eror'; did you mean 'merge-error'? Known: kl, merge-error"
    """
    names = sorted(allowed)
    hint = nearest(given, names) or "."
    return UserError(f"unknown {kind} {given!r}{hint} Known: {', '.join(names) or '(none)'}")


def nearest(given: str, allowed: Iterable[str], likeness: float = 0.6) -> str:
    """The question whether another name was meant; empty where none is as like it as ``likeness``, 0 to 1."""
    near = difflib.get_close_matches(given, sorted(allowed), n=1, cutoff=likeness)
    return f"; did you mean {near[0]!r}?" if near else ""


class Terminated(KeyboardInterrupt):
    """Another program asked this one to stop (SIGTERM): the same clean stop as by Ctrl-C."""
