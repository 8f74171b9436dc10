"""Attention that reads its keys and values from a rounded cache.

Every decoder of transformers sends new keys, after RoPE and norms, and new values through ``update`` of a cache, and
attends to what that returns: the one place that all families, and both attention implementations, have in common.

A window of recent tokens that are read unrounded differs from query to query. Attention is then given every token in
several forms, one after the other along the tokens, and a mask under which a query sees exactly one of them.
"""

from __future__ import annotations

import inspect
from dataclasses import dataclass
from itertools import product
from typing import Any

import torch
from torch import Tensor

from gqasearch.errors import UserError
from gqasearch.models.parent import Parent
from gqasearch.models.partial import Arguments, decoder_layer, run_layer
from gqasearch.rounding import CacheFormat, KVFormat

CACHES = ("past_key_values", "layer_past")
MASK = "attention_mask"


@dataclass(frozen=True)
class _Form:
    """Keys and values, each rounded or not; ``seen``: by which queries (T, T) bool, None where it is the only form."""

    keys_rounded: bool
    values_rounded: bool
    seen: Tensor | None


class RoundedCache:
    """In place of a cache, for one call of one layer. ``filled``: whether attention has used it."""

    def __init__(self, kv: KVFormat, forms: list[_Form]) -> None:
        self._kv, self._forms, self.filled = kv, forms, False

    def update(self, keys: Tensor, values: Tensor, *_args: Any, **_kwargs: Any) -> tuple[Tensor, Tensor]:
        """Keys and values (B, H, T, d) -> the same in n forms, (B, H, n T, d). Gradients pass straight through."""
        self.filled = True
        keys_as = {False: keys, True: self._kv.k.straight_through(keys)}
        values_as = {False: values, True: self._kv.v.straight_through(values)}
        return (
            torch.cat([keys_as[form.keys_rounded] for form in self._forms], -2),
            torch.cat([values_as[form.values_rounded] for form in self._forms], -2),
        )


def run_rounded_layer(parent: Parent, index: int, hidden: Tensor, arguments: Arguments, kv: KVFormat) -> Tensor:
    """``run_layer`` with keys and values in the formats ``kv``; raises ``UserError`` where there is no cache."""
    rounded, cache = rounded_arguments(parent, decoder_layer(parent, index), arguments, hidden, kv)
    found = run_layer(parent, index, hidden, rounded)
    if not cache.filled:
        raise UserError(f"{type(parent.model).__name__} has no KV cache that could be rounded")
    return found


def rounded_arguments(
    parent: Parent, module: torch.nn.Module, arguments: Arguments, hidden: Tensor, kv: KVFormat
) -> tuple[Arguments, RoundedCache]:
    """What to call ``module``, a decoder layer of ``parent`` or its attention block, with besides ``hidden`` (B, T, D).

    ``arguments``: of a call without a cache, in which all T tokens are new.
    """
    others, named = arguments
    forms = _forms(kv, hidden.shape[-2], hidden.device)
    cache = RoundedCache(kv.side_by_side() if parent.family.pairs_side_by_side else kv, forms)
    places = list(inspect.signature(type(module).forward).parameters)[2:]  # after self and the hidden states
    taken = {**dict(zip(places, others, strict=False)), **named}
    name = next((name for name in CACHES if name in places), CACHES[0])
    return ((), {**taken, name: cache, MASK: _spread(taken.get(MASK), forms)}), cache


def _forms(kv: KVFormat, tokens: int, device: torch.device) -> list[_Form]:
    before = [part.rounded_before(tokens) for part in (kv.k, kv.v)]
    if before == [None, None]:
        return [_Form(True, True, None)]
    causal = torch.ones(tokens, tokens, dtype=torch.bool, device=device).tril()
    keys, values = (_read_rounded(part, causal) for part in (kv.k, kv.v))
    found = []
    for keys_rounded, values_rounded in product((True, False), repeat=2):
        seen = causal & (keys == keys_rounded) & (values == values_rounded)
        if seen.any():
            found.append(_Form(keys_rounded, values_rounded, seen))
    return found


def _read_rounded(part: CacheFormat, causal: Tensor) -> Tensor:
    """Whether the query of a row reads the token of a column rounded, (T, T)."""
    before = part.rounded_before(len(causal))
    if before is None:
        return torch.ones_like(causal)
    return torch.arange(len(causal), device=causal.device) < before.to(causal.device)[:, None]


def _spread(mask: Tensor | None, forms: list[_Form]) -> Tensor | None:
    """The mask over all forms, (..., T, n T), of one over the tokens, (..., T, T), bool or added to scores."""
    parts = []
    for form in forms:
        if form.seen is None:
            return mask
        if mask is None:  # attention is causal by itself, and knows masks of this kind
            parts.append(form.seen[None, None])
        elif mask.dtype == torch.bool:
            parts.append(mask & form.seen)
        else:
            parts.append(mask.masked_fill(~form.seen, torch.finfo(mask.dtype).min))
    return torch.cat(parts, -1)
