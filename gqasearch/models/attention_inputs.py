"""What the attention of a layer is given: queries, keys and values as they enter its kernel."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn
from transformers import AttentionInterface
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from gqasearch.models.parent import Parent

NOTED = "noted by gqasearch"


@dataclass(frozen=True)
class AttentionInputs:
    """One call: ``query`` (B, Hq, T, d), ``key`` and ``value`` (B, H, T, d) as they are cached; ``scale`` of scores.

    ``mask``: what is added to scores (float) or which of them count (bool), (B or 1, 1, T, T); None where attention is
    causal and nothing else.
    """

    query: Tensor
    key: Tensor
    value: Tensor
    scale: float
    mask: Tensor | None


class _Noting:
    """Whose calls are noted, and where: one layer at a time."""

    given: list[AttentionInputs] | None = None
    attend: Any = None


def _noted(module: nn.Module, query: Tensor, key: Tensor, value: Tensor, mask: Any, **options: Any) -> Any:
    if _Noting.given is not None:
        scale = options.get("scaling")
        scale = query.shape[-1] ** -0.5 if scale is None else float(scale)
        _Noting.given.append(AttentionInputs(query, key, value, scale, mask))
    return _Noting.attend(module, query, key, value, mask, **options)


# Masks are made by the model for its own attention function, and passed on as they are.
AttentionInterface.register(NOTED, _noted)


@contextmanager
def attention_noted(parent: Parent, index: int) -> Iterator[list[AttentionInputs]]:
    """Within the block the list grows by what the attention of layer ``index`` is given, call by call."""
    module = parent.model.get_submodule(parent.family.attention_path(index))
    config: Any = module.config
    before = config._attn_implementation  # noqa: SLF001 - as stock attention does
    eager = getattr(sys.modules[type(module).__module__], "eager_attention_forward", None)
    _Noting.attend = eager if before == "eager" else ALL_ATTENTION_FUNCTIONS[before]
    _Noting.given = []
    config._attn_implementation = NOTED  # noqa: SLF001
    try:
        yield _Noting.given
    finally:
        config._attn_implementation = before  # noqa: SLF001
        _Noting.given = _Noting.attend = None
