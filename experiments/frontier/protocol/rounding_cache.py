"""A cache for transformers' models that gives back what a rounded one would, so that any tool measures with it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

from torch import Tensor
from transformers import DynamicCache, PreTrainedModel

from gqasearch.errors import UserError
from gqasearch.rounding import KVFormat


class RoundingCache(DynamicCache):
    """Of one forward pass: nothing is kept. Keys (B, H, T, d) are as attention reads them, after RoPE."""

    def __init__(self, kv: KVFormat) -> None:
        super().__init__()
        self._kv = kv

    def update(self, key_states: Tensor, value_states: Tensor, *_args: Any, **_named: Any) -> tuple[Tensor, Tensor]:
        return self._kv.k.round(key_states), self._kv.v.round(value_states)


@contextmanager
def cache_rounded(model: PreTrainedModel, kv: KVFormat | None) -> Iterator[None]:
    """Within the block every pass of ``model`` over whole texts reads keys and values in the format ``kv``, if any.

    Raises ``UserError`` for a format that leaves recent tokens unrounded, which differ from query to query.
    """
    if kv is None:
        yield
        return
    if any(part.rounded_before(2) is not None for part in (kv.k, kv.v)):
        raise UserError(f"cache format {kv.name} leaves recent tokens unrounded, which tasks cannot be run with here")
    own: Any = model
    own.forward = partial(_with_cache, model.forward, kv)  # hides the class's, until it is taken away again
    try:
        yield
    finally:
        del own.forward


def _with_cache(forward: Callable[..., Any], kv: KVFormat, *args: Any, **named: Any) -> Any:
    return forward(*args, **{**named, "past_key_values": RoundingCache(kv), "use_cache": True})
