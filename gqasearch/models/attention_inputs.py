"""What the attention of a layer is given: queries, keys and values as they enter its kernel."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import transformers
from torch import Tensor, nn
from transformers import AttentionInterface
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from gqasearch.errors import UserError
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


def require_noted(architecture: str) -> None:
    """Raise ``UserError`` for a model of transformers that does not attend through its table of attention functions."""
    module = sys.modules[getattr(transformers, architecture).__module__]
    if not hasattr(module, "ALL_ATTENTION_FUNCTIONS"):
        raise UserError(f"{architecture} attends by code of its own, whose keys cannot be seen. Leave --kv-bits out")
    if architecture == "GptOssForCausalLM":
        raise UserError(
            f"{architecture} has sinks, which no basis for rounded caches is fitted to. Leave --kv-bits out"
        )


def _eager_attention(attention: nn.Module) -> Any:
    """The eager attention of this class's model, in the file of the class or of one that it inherits from.

    Wide heads of GPT-2, OPT and BERT have a class of ours (``wide_attention``), on top of transformers' own.
    """
    modules = (sys.modules[kind.__module__] for kind in type(attention).__mro__)
    return next(found for module in modules if (found := getattr(module, "eager_attention_forward", None)) is not None)


@contextmanager
def attention_noted(parent: Parent, index: int) -> Iterator[list[AttentionInputs]]:
    """Within the block the list grows by what the attention of layer ``index`` is given, call by call."""
    attention = parent.model.get_submodule(parent.family.attention_path(index))
    config: Any = attention.config
    before = config._attn_implementation  # noqa: SLF001 - as stock attention does
    attend = ALL_ATTENTION_FUNCTIONS.get_interface(before, _eager_attention(attention))
    given: list[AttentionInputs] = []

    def noted(module: nn.Module, query: Tensor, key: Tensor, value: Tensor, mask: Any, **options: Any) -> Any:
        scale = options.get("scaling")
        scale = query.shape[-1] ** -0.5 if scale is None else float(scale)
        given.append(AttentionInputs(query, key, value, scale, mask))
        return attend(module, query, key, value, mask, **options)

    # Masks are made by the model for its own attention function, and passed on as they are.
    AttentionInterface.register(NOTED, noted)
    config._attn_implementation = NOTED  # noqa: SLF001
    try:
        yield given
    finally:
        config._attn_implementation = before  # noqa: SLF001
