"""Names of cache formats, and how a format for keys and one for values are written in one word."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any

from gqasearch.errors import UserError, unknown_name
from gqasearch.parameters import construct
from gqasearch.rounding._base import CacheFormat, Role
from gqasearch.rounding.fp8 import Fp8
from gqasearch.rounding.half_precision import HalfPrecision
from gqasearch.rounding.hqq import HQQ
from gqasearch.rounding.kivi import Kivi
from gqasearch.rounding.llamacpp import IQ4NL, Q4_0, Q4_1, Q5_0, Q5_1, Q8_0
from gqasearch.rounding.per_token import PerToken
from gqasearch.rounding.per_token_head import PerTokenHead
from gqasearch.rounding.quanto import Quanto

# By name: the dataclass, and which of its fields the name sets.
FORMATS: dict[str, tuple[type[CacheFormat], dict[str, Any]]] = {
    **{kind: (HalfPrecision, {"kind": kind}) for kind in ("f16", "bf16")},
    **{f"int{bits}": (PerToken, {"bits": bits}) for bits in (8, 4, 3, 2)},
    **{kind.label: (kind, {}) for kind in (Q8_0, Q5_1, Q5_0, Q4_1, Q4_0, IQ4NL)},
    **{f"{kind.label}_unrotated": (kind, {"rotate": False}) for kind in (Q8_0, Q5_1, Q5_0, Q4_1, Q4_0, IQ4NL)},
    "fp8": (Fp8, {}),
    **{f"fp8_{scaled}": (Fp8, {"scaled": scaled}) for scaled in ("tensor", "head")},
    **{f"{kind}_per_token_head": (PerTokenHead, {"kind": kind}) for kind in ("int8", "fp8", "int4")},
    **{f"kivi{bits}": (Kivi, {"bits": bits}) for bits in (4, 2)},
    **{f"quanto{bits}": (Quanto, {"bits": bits}) for bits in (4, 2)},
    **{f"hqq{bits}": (HQQ, {"bits": bits}) for bits in (8, 4, 2)},
}
# Bits alone, and where K and V are told apart.
SHORT = {"16": "f16", **{str(bits): f"int{bits}" for bits in (8, 4, 3, 2)}}
APART = re.compile(r"k(\d+)v(\d+)")


def make_format(name: str, role: Role, parameters: dict[str, Any] | None = None) -> CacheFormat:
    """The format of this name for keys ("k") or values ("v"), with other ``parameters`` than the name's.

    Raises ``UserError`` for an unknown name or parameter, with the nearest valid one.
    """
    if name not in FORMATS:
        raise unknown_name("cache format", name, FORMATS)
    kind, fields = FORMATS[name]
    return construct(kind, f"cache format {name}", {**fields, **(parameters or {}), "role": role})


@dataclass(frozen=True)
class KVFormat:
    """A format for keys and one for values. ``name``: as it was written."""

    name: str
    k: CacheFormat
    v: CacheFormat

    def check(self, head_dim: int) -> None:
        """Raise ``UserError`` where the engine of one of them refuses the head size."""
        self.k.check(head_dim)
        self.v.check(head_dim)

    def refusal(self, head_dim: int) -> UserError | None:
        """What ``check`` raises; None where it raises nothing."""
        try:
            self.check(head_dim)
        except UserError as error:
            return error
        return None

    def side_by_side(self) -> KVFormat:
        """See ``CacheFormat.side_by_side``."""
        return replace(self, k=self.k.side_by_side(), v=self.v.side_by_side())

    def bytes_per_token(self, key_heads: int, value_heads: int, head_dim: int, context: int | None = None) -> float:
        """Bytes of keys and values per token of a cache of so many heads of each, all layers' together.

        ``context``: as in ``CacheFormat.bytes_per_head``.
        """
        return sum(
            heads * part.bytes_per_head(head_dim, context)
            for heads, part in ((key_heads, self.k), (value_heads, self.v))
        )


def parse_format(text: str) -> KVFormat:
    """A ``KVFormat`` from ``8`` (int8), ``k8v4``, ``q8_0``, or ``q8_0/q4_0`` for keys / values.

    Raises ``UserError`` for anything else, with the nearest valid name.
    """
    found = APART.fullmatch(text)
    names = list(found.groups()) if found else text.split("/")
    if len(names) > 2 or not all(names):
        raise UserError(f"cache format {text!r}: give one for keys and values alike (q8_0), or two (q8_0/q4_0, k8v4)")
    keys, values = (SHORT.get(name, name) for name in (names[0], names[-1]))
    return KVFormat(text, make_format(keys, "k"), make_format(values, "v"))


def parse_formats(text: str | Iterable[str]) -> list[KVFormat]:
    """Several, separated by commas, each once."""
    listed = text.split(",") if isinstance(text, str) else list(text)
    return [parse_format(name) for name in dict.fromkeys(name.strip() for name in listed)]
