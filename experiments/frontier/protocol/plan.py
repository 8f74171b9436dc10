"""The rows of the protocol: at every share of the KV cache fewer heads alone, and heads and bits together."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from gqasearch.models import HeadGeometry
from gqasearch.rounding import parse_format

SHARES = (0.5, 0.3, 0.25, 0.2)
WIDE, NARROW = "k8v4", "4"  # the formats of rows of both: the first that leaves all heads, else the second


@dataclass(frozen=True)
class Row:
    """One conversion: what it is called, ``settings`` of its run, and the cache that it is measured with."""

    share: float
    way: str
    settings: dict[str, Any]
    kv_bits: str | None = None

    @property
    def folder(self) -> str:
        """Of its run."""
        return f"{self.share:g}-{self.way.replace(' ', '-')}"


def plan(shape: HeadGeometry, shares: tuple[float, ...] = SHARES) -> Iterator[Row]:
    """Two rows per share of the bytes of the parent's cache in 16 bits, for heads of this size."""
    for share in shares:
        yield Row(share, "heads", {"kv_ratio": share, "uneven": True})
        left = {name: share / _share_of(name, shape.head_dim) for name in (WIDE, NARROW)}
        bits = WIDE if left[WIDE] >= 1 else NARROW
        basis = {"kv_bits": bits}
        if left[bits] >= 1:
            alone = {"method": "neighbour", "merge": "mean", "refine": "none", "objectives": ["weight-sharing-error"]}
            yield Row(share, "bits", {**basis, **alone, "kv_ratio": 1.0}, bits)
        else:
            yield Row(share, "heads and bits", {**basis, "kv_ratio": left[bits], "uneven": True}, bits)


def _share_of(name: str, head_dim: int) -> float:
    return parse_format(name).bytes_per_token(1, 1, head_dim) / (4 * head_dim)
