"""Run the model from the middle: layers whose result is known are skipped."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeAlias

import torch
from torch import Tensor

from gqasearch.models.parent import Parent
from gqasearch.models.prediction import prediction_of

# What a decoder layer is called with besides the hidden states: positional and named arguments.
Arguments: TypeAlias = tuple[tuple[Any, ...], dict[str, Any]]


def decoder_layer(parent: Parent, index: int) -> torch.nn.Module:
    """The decoder layer around one attention block."""
    return parent.model.get_submodule(parent.family.layer_path(index))


def output_projection(parent: Parent, index: int) -> torch.nn.Module:
    """The module of W_o. It gives what attention adds to the stream, whatever the attention block does with that."""
    return parent.model.get_submodule(parent.family.tensor_name(index, "o.weight").removesuffix(".weight"))


def hidden_states_of(output: Any) -> Tensor:
    """Hidden states (B, T, D) in what a decoder layer gave."""
    found: Tensor = output[0] if isinstance(output, tuple) else output
    return found


@contextmanager
def outputs_noted(module: torch.nn.Module) -> Iterator[list[Tensor]]:
    """Within the block the list grows by what ``module`` gives, call by call."""
    given: list[Tensor] = []

    def note(_module: torch.nn.Module, _args: Any, output: Tensor) -> None:
        given.append(output)

    handle = module.register_forward_hook(note)
    try:
        yield given
    finally:
        handle.remove()


@dataclass(frozen=True)
class Entered:
    """One batch before the first layer: ``hidden`` (B, T, D), and with what every layer is called besides, (L,)."""

    hidden: Tensor
    arguments: tuple[Arguments, ...]


def enter(parent: Parent, ids: Tensor, mask: Tensor) -> Entered:
    """Run the model without its layers' work, to see what enters the first and how each is called."""
    hidden: list[Tensor] = []
    arguments: list[Arguments] = []

    def note(hidden_states: Tensor, *others: Any, **named: Any) -> Tensor:
        hidden.append(hidden_states)
        arguments.append((others, named))
        return hidden_states

    with torch.no_grad(), layers_stubbed(parent, range(parent.geometry.num_layers), note):
        parent.model.base_model(
            input_ids=ids.to(parent.device), attention_mask=mask.long().to(parent.device), use_cache=False
        )
    return Entered(hidden[0], tuple(arguments))


def run_layer(parent: Parent, index: int, hidden: Tensor, arguments: Arguments) -> Tensor:
    """One decoder layer, (B, T, D) -> (B, T, D)."""
    others, named = arguments
    return hidden_states_of(decoder_layer(parent, index)(hidden, *others, **named))


def run_from(
    parent: Parent, ids: Tensor, mask: Tensor, layer: int = 0, hidden: Tensor | None = None
) -> tuple[Tensor, list[Tensor]]:
    """Logits (B, T, V) of the model as it stands, and the hidden states (B, T, D) between its layers.

    ``hidden``: what enters ``layer``, from an earlier run with the same layers below; they are skipped. None
    runs everything. The list holds what enters layer ``layer + 1``, ``layer + 2``, ..., and what leaves
    the last one. All of transformers' own code but the skipped layers runs: masks, position embeddings, the head.
    """
    if (hidden is None) != (layer == 0):
        raise ValueError("hidden states are needed to start above layer 0, and only there")
    device = parent.device
    with torch.no_grad(), _skipped(parent, layer, hidden), _noted(parent, layer) as between:
        out = parent.model(input_ids=ids.to(device), attention_mask=mask.long().to(device), use_cache=False)
    return prediction_of(out), between


@contextmanager
def _skipped(parent: Parent, layer: int, hidden: Tensor | None) -> Iterator[None]:
    """Below ``layer`` nothing is computed; the last layer skipped gives ``hidden``."""

    def skip(*_args: Any, **_kwargs: Any) -> Tensor | None:
        return hidden

    with layers_stubbed(parent, range(layer), skip):
        yield


@contextmanager
def layers_stubbed(parent: Parent, layers: Iterable[int], stub: Callable[..., Tensor | None]) -> Iterator[None]:
    """Within the block ``stub`` is called in place of these decoder layers, with their arguments."""
    modules = [decoder_layer(parent, index) for index in layers]

    def stub_in_tuple(*args: Any, **kwargs: Any) -> tuple[Tensor | None, None]:
        return stub(*args, **kwargs), None

    try:
        for module in modules:
            # On the instance it hides the class's method, and transformers' loop over the layers stays its own.
            module.forward = stub_in_tuple if parent.family.layers_give_tuples else stub
        yield
    finally:
        for module in modules:
            module.__dict__.pop("forward", None)


@contextmanager
def _noted(parent: Parent, layer: int) -> Iterator[list[Tensor]]:
    """What leaves every layer from ``layer`` on, in order."""
    between: list[Tensor] = []

    def note(_module: torch.nn.Module, _args: Any, output: Any) -> None:
        between.append(hidden_states_of(output))

    layers = range(layer, parent.geometry.num_layers)
    handles = [decoder_layer(parent, index).register_forward_hook(note) for index in layers]
    try:
        yield between
    finally:
        for handle in handles:
            handle.remove()
