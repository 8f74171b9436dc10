"""What running the model costs, in tokens: seconds depend on the machine and on what else it does."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from gqasearch.models import Parent


class ForwardCount:
    """``tokens``: tokens times the attention blocks that they went through, over the number of layers."""

    def __init__(self, layers: int) -> None:
        self._layers, self._calls = layers, 0

    @property
    def tokens(self) -> float:
        return self._calls / self._layers

    def add(self, tokens: int) -> None:
        self._calls += tokens


@contextmanager
def counted_forwards(parent: Parent) -> Iterator[ForwardCount]:
    """Within the block every call of an attention block of ``parent``, whole model or layer alone, is counted."""
    count = ForwardCount(parent.geometry.num_layers)

    def note(_module: torch.nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        hidden = args[0] if args else kwargs["hidden_states"]
        count.add(hidden.shape[0] * hidden.shape[1])

    paths = [parent.family.attention_path(index) for index in range(parent.geometry.num_layers)]
    handles = [parent.model.get_submodule(path).register_forward_pre_hook(note, with_kwargs=True) for path in paths]
    try:
        yield count
    finally:
        for handle in handles:
            handle.remove()
