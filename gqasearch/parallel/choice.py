"""What ``--workers`` says: how many, and where."""

from __future__ import annotations

from dataclasses import dataclass

from gqasearch.errors import UserError

LOCAL_RAY = "local"
CLIENT = "ray://"
MOST = 4096  # processes, or threads of one: more than any machine runs at once


@dataclass(frozen=True)
class Workers:
    """``count`` plain processes on this machine; with ``address`` so many Ray actors at most, None for all that fit.

    ``address``: None for plain processes, "local" for a Ray of this machine alone that ends with the run, or
    ``ray://HOST:PORT``.
    """

    count: int | None = 1
    address: str | None = None

    @property
    def is_one_process(self) -> bool:
        """True when this process does everything itself."""
        return self.address is None and self.count == 1


ONE = Workers()


def parse_workers(given: str | int) -> Workers:
    """``N``, ``ray`` or ``ray://HOST:PORT``; raises ``UserError`` for anything else."""
    words = str(given).strip()
    if words == "ray":
        return Workers(None, LOCAL_RAY)
    if words.startswith(CLIENT) and len(words) > len(CLIENT):
        return Workers(None, words)
    if not words.isdecimal() or len(words) > len(str(MOST)) or not 1 <= int(words) <= MOST:
        raise UserError(f"--workers {words[:40]}: give a number of processes, 1 to {MOST}, 'ray', or ray://HOST:PORT")
    return Workers(int(words))
