"""What a search keeps between generations, as JSON: generators, groupings, long lists of numbers.

Floats are written by ``json`` as their shortest exact decimal, or here as packed IEEE bytes: both come
back with the same bits.
"""

from __future__ import annotations

import base64
import zlib
from typing import Any

import numpy as np

from gqasearch.errors import UserError
from gqasearch.grouping import Grouping
from gqasearch.searching.problem import Candidate


def save_rng(rng: np.random.Generator) -> dict[str, Any]:
    """State of the bit generator, JSON-able."""
    plain = _plain(rng.bit_generator.state)
    return dict(plain)


def restore_rng(rng: np.random.Generator, saved: dict[str, Any]) -> None:
    """Set ``rng`` to where it was; refuses the state of another kind of bit generator."""
    kind = rng.bit_generator.state["bit_generator"]
    if saved.get("bit_generator") != kind:
        raise UserError(f"search state was written with bit generator {saved.get('bit_generator')}, not {kind}")
    rng.bit_generator.state = saved


def save_candidate(candidate: Candidate) -> dict[str, Any]:
    """Labels (L, H), values (M,) and lower bounds."""
    return {
        "labels": [list(layer.labels) for layer in candidate.grouping],
        "values": list(candidate.values),
        "lower_bounds": list(candidate.lower_bounds),
    }


def load_candidate(saved: dict[str, Any]) -> Candidate:
    """The inverse of :func:`save_candidate`."""
    return Candidate(Grouping.from_labels(saved["labels"]), tuple(saved["values"]), tuple(saved["lower_bounds"]))


def pack(data: bytes) -> str:
    """Bytes as compressed base64. Level 1: states are written often and read once."""
    return base64.b64encode(zlib.compress(data, level=1)).decode("ascii")


def unpack(text: str) -> bytes:
    """The inverse of :func:`pack`."""
    return zlib.decompress(base64.b64decode(text))


def require_method(saved: dict[str, Any], method: str) -> None:
    """Refuse the state of another method."""
    if saved.get("method") != method:
        raise UserError(f"search state belongs to method {saved.get('method')!r}, not {method!r}")


def _plain(value: Any) -> Any:
    """Dicts of numpy numbers and arrays as dicts of ints and lists."""
    if isinstance(value, dict):
        return {key: _plain(entry) for key, entry in value.items()}
    return value.tolist() if isinstance(value, np.ndarray | np.generic) else value
