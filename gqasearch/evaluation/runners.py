"""Ways to compute what a model predicts: a loaded one, or the parent with layers replaced; whole, or by layer."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import TypeAlias

import torch
from torch import Tensor
from transformers import PreTrainedModel

from gqasearch.models import (
    Arguments,
    Entered,
    LayerWeights,
    Parent,
    device_of,
    enter,
    layers_replaced,
    layers_stubbed,
    prediction_of,
    run_from,
    run_layer,
)

Runner: TypeAlias = Callable[[Tensor, Tensor], Tensor]
"""(ids (B, T), mask (B, T) bool) -> logits (B, T, V) float32; of a model without a head its hidden states, V = D."""
# One layer: (hidden states (B, T, D), what else it is called with) -> (B, T, D).
RunLayer: TypeAlias = Callable[[Tensor, Arguments], Tensor]

# Of the logits that one product computes, and of those that are looked at together: what is made of them then stays in
# the processor's cache, and is no memory that the system has to clear first.
LOGIT_BYTES = 24 * 2**20
PART_BYTES = 2 * 2**20


class LayerStack(ABC):
    """A model that a text goes up through: it enters, passes ``num_layers`` layers one by one, and is predicted from.

    Called as a ``Runner`` it does all of this for one batch. Where logits (..., V) are spoken of, a model without a
    head gives what leaves its last layer, and V is its width. ``source``: whose layers these are; stacks of one source
    differ in the layers ``changed`` alone.
    """

    @property
    @abstractmethod
    def num_layers(self) -> int: ...

    @property
    @abstractmethod
    def source(self) -> object: ...

    @property
    def changed(self) -> Collection[int]:
        return ()

    @abstractmethod
    def enter(self, ids: Tensor, mask: Tensor) -> Entered:
        """One batch before the first layer."""

    @abstractmethod
    def layer_loaded(self, index: int) -> AbstractContextManager[RunLayer]:
        """What runs layer ``index``, whose weights stay in memory within the block."""

    @abstractmethod
    def predict(self, hidden: Tensor) -> Tensor:
        """Logits (n, V) float32 of any n tokens from what leaves the last layer there, (n, D)."""

    @abstractmethod
    def most_tokens(self, width: int) -> int:
        """How many tokens, ``width`` values each, are predicted from at once."""

    def embeddings_loaded(self) -> AbstractContextManager[None]:
        """Within the block the weights that ``enter`` needs stay in memory."""
        return nullcontext()

    def head_loaded(self) -> AbstractContextManager[None]:
        """Within the block the weights that ``predict`` needs stay in memory."""
        return nullcontext()

    def predictions(self, hidden: Tensor, most: int) -> Iterator[tuple[slice, Tensor]]:
        """``predict`` for tokens (n, D), up to ``most`` at once: some of them, and their logits, at a time."""
        for start in range(0, len(hidden), most):
            scores = self.predict(hidden[start : start + most])
            size = max(1, PART_BYTES // (4 * scores.shape[-1])) if scores.device.type == "cpu" else most
            for first in range(0, len(scores), size):
                part = scores[first : first + size]
                yield slice(start + first, start + first + len(part)), part

    @abstractmethod
    def __call__(self, ids: Tensor, mask: Tensor) -> Tensor:
        """Logits of one batch, (B, T, V) float32."""

    def climbed(self, ids: Tensor, mask: Tensor) -> Tensor:
        """What leaves the last layer, (B, T, D), of one batch."""
        entered = self.enter(ids, mask)
        hidden = entered.hidden
        for index, arguments in enumerate(entered.arguments):
            with self.layer_loaded(index) as run:
                hidden = run(hidden, arguments)
        return hidden

    def shared_layers(self, other: LayerStack) -> int:
        """How many layers, from the first on, compute what those of ``other`` do."""
        if other.source is not self.source:
            return 0
        return min({*self.changed, *other.changed}, default=self.num_layers)


@dataclass(frozen=True)
class ParentLayers(LayerStack):
    """The parent with the layers ``changed`` replaced.

    ``tied_layer``: gives one of these in the source's shape (see ``tie_heads``); asked anew every time, so that no
    more than one need be in memory.
    """

    parent: Parent
    changed: Collection[int] = ()
    tied_layer: Callable[[int], LayerWeights] | None = None

    @property
    def num_layers(self) -> int:
        return self.parent.geometry.num_layers

    @property
    def source(self) -> object:
        return self.parent.model

    def enter(self, ids: Tensor, mask: Tensor) -> Entered:
        return enter(self.parent, ids, mask)

    @contextmanager
    def layer_loaded(self, index: int) -> Iterator[RunLayer]:
        def run(hidden: Tensor, arguments: Arguments) -> Tensor:
            return run_layer(self.parent, index, hidden, arguments)

        replaced = {}
        if self.tied_layer is not None and index in self.changed:
            replaced[index] = self.tied_layer(index)
        with torch.no_grad(), self.parent.layer_loaded(index), layers_replaced(self.parent, replaced):
            yield run

    def predict(self, hidden: Tensor) -> Tensor:
        # Norm and head look at every token by itself: any tokens make a block. What enters is never looked at, and in
        # place of ids, which would need the embeddings' weights.
        model = self.parent.model
        width = next(model.get_input_embeddings().parameters()).shape[1]
        nothing = hidden.new_zeros(1, len(hidden), width, device=self.parent.device)
        with torch.no_grad(), layers_stubbed(self.parent, range(self.num_layers), lambda *_, **__: hidden[None]):
            out = model(inputs_embeds=nothing, use_cache=False)
        return prediction_of(out)[0].float()

    def embeddings_loaded(self) -> AbstractContextManager[None]:
        return self.parent.module_loaded(self.parent.model.get_input_embeddings())

    def head_loaded(self) -> AbstractContextManager[None]:
        head = self.parent.model.get_output_embeddings()
        return nullcontext() if head is None else self.parent.module_loaded(head)

    def most_tokens(self, width: int) -> int:
        has_head = self.parent.family.objective != "hidden-states"
        given = int(self.parent.model.config.get_text_config().vocab_size) if has_head else width
        most = max(1, LOGIT_BYTES // (4 * given))
        limit = self.parent.family.context_length(self.parent.config)
        return most if limit is None else min(most, limit)

    def finish(self, ids: Tensor, mask: Tensor, hidden: Tensor) -> Tensor:
        """Logits (B, T, V) float32 from what leaves the last layer, (B, T, D)."""
        return run_from(self.parent, ids, mask, self.num_layers, hidden)[0].float()

    def __call__(self, ids: Tensor, mask: Tensor) -> Tensor:
        return self.finish(ids, mask, self.climbed(ids, mask))


@dataclass(frozen=True)
class WholeModel(LayerStack):
    """A model whose layers nobody knows, run as a whole: its logits enter, and pass no layer."""

    run: Runner

    @property
    def num_layers(self) -> int:
        return 0

    @property
    def source(self) -> object:
        return self.run

    def enter(self, ids: Tensor, mask: Tensor) -> Entered:
        return Entered(self.run(ids, mask), ())

    def layer_loaded(self, index: int) -> AbstractContextManager[RunLayer]:
        raise IndexError(f"layer {index} of a model that runs as a whole")

    def predict(self, hidden: Tensor) -> Tensor:
        return hidden

    def most_tokens(self, width: int) -> int:
        return max(1, LOGIT_BYTES // (4 * width))

    def __call__(self, ids: Tensor, mask: Tensor) -> Tensor:
        return self.run(ids, mask)


def model_runner(model: PreTrainedModel) -> WholeModel:
    """Run a loaded model as it is."""
    device = device_of(model)

    def run(ids: Tensor, mask: Tensor) -> Tensor:
        with torch.no_grad():
            out = model(input_ids=ids.to(device), attention_mask=mask.long().to(device), use_cache=False)
        return prediction_of(out).float()

    return WholeModel(run)


def tied_runner(parent: Parent, layers: Mapping[int, LayerWeights]) -> ParentLayers:
    """Run the parent with these source-shaped layers in place of its own (see ``tie_heads``)."""
    return ParentLayers(parent, layers, layers.__getitem__)
