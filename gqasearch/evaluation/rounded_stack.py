"""A model whose KV cache is rounded."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass

from torch import Tensor

from gqasearch.evaluation.runners import LayerStack, ParentLayers, RunLayer
from gqasearch.models import Arguments, Entered, run_rounded_layer
from gqasearch.rounding import KVFormat


@dataclass(frozen=True)
class RoundedLayers(LayerStack):
    """``layers`` with keys and values in the formats ``kv``: of every token, as if each had been decoded by itself."""

    layers: ParentLayers
    kv: KVFormat

    @property
    def num_layers(self) -> int:
        return self.layers.num_layers

    @property
    def source(self) -> object:
        return self.layers.source

    @property
    def changed(self) -> Collection[int]:
        return range(self.num_layers)

    def enter(self, ids: Tensor, mask: Tensor) -> Entered:
        return self.layers.enter(ids, mask)

    @contextmanager
    def layer_loaded(self, index: int) -> Iterator[RunLayer]:
        def run(hidden: Tensor, arguments: Arguments) -> Tensor:
            return run_rounded_layer(self.layers.parent, index, hidden, arguments, self.kv)

        with self.layers.layer_loaded(index):
            yield run

    def predict(self, hidden: Tensor) -> Tensor:
        return self.layers.predict(hidden)

    def most_tokens(self, width: int) -> int:
        return self.layers.most_tokens(width)

    def embeddings_loaded(self) -> AbstractContextManager[None]:
        return self.layers.embeddings_loaded()

    def head_loaded(self) -> AbstractContextManager[None]:
        return self.layers.head_loaded()

    def __call__(self, ids: Tensor, mask: Tensor) -> Tensor:
        return self.layers.finish(ids, mask, self.climbed(ids, mask))
