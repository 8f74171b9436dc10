"""transformers' model without values: what it reads while it loads, and where it says that a tensor lies."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
import transformers.core_model_loading
import transformers.modeling_utils
from torch import Tensor

from gqasearch.models.assembled import PartsNoted
from gqasearch.models.tensors import CheckpointTensors

# Where functions of transformers are looked up, and which: one reads a tensor of a file, one says what lies where.
_READS_ONE = (transformers.core_model_loading, "_materialize_copy")
_PLACES = (transformers.modeling_utils, "accelerate_disk_offload")
# Two more, for weights that are put together from several stored tensors.
_NOTES = (transformers.core_model_loading.WeightTransform, "add_tensor")
_OFFLOADS = (transformers.core_model_loading, "offload_and_maybe_resave_param")


@contextmanager
def without_values(tensors: CheckpointTensors) -> Iterator[PartsNoted]:
    """Within the block a model that is loaded to stay on disk is made without reading its matrices.

    Gives what is to be put together from several stored tensors.
    """
    noted = PartsNoted()
    with (
        _without_offload_warning(),
        _wrapped(*_READS_ONE, _nothing_read),
        _wrapped(*_PLACES, _as_stored(tensors)),
        _wrapped(*_NOTES, noted.noting),
        _wrapped(*_OFFLOADS, noted.placing),
    ):
        yield noted


def _nothing_read(original: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """transformers reads every weight that is to stay on disk, and drops it: 2 GB of mapped pages for 1 B parameters.

    Here matrices are not read; vectors are, among which are the buffers that have to be.
    """

    def without_values(tensor: Any, device: Any = None, dtype: Any = None) -> Tensor:
        if hasattr(tensor, "get_shape") and len(tensor.get_shape()) > 1 and dtype is not None:
            return torch.empty(tensor.get_shape(), dtype=dtype, device="meta")
        return original(tensor, device, dtype)

    return without_values


def _as_stored(tensors: CheckpointTensors) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """transformers loads whole files, whatever the index lists, but reads what stays on disk where the index says.

    Here it is told where every tensor is.
    """

    def true(value: Any) -> Any:
        is_index = isinstance(value, dict) and "weight_map" in value
        return {**value, "weight_map": tensors.shard_of} if is_index else value

    def wrapper(original: Callable[..., Any]) -> Callable[..., Any]:
        return lambda *args, **named: original(*map(true, args), **{name: true(value) for name, value in named.items()})

    return wrapper


@contextmanager
def _wrapped(owner: Any, name: str, wrapper: Callable[[Callable[..., Any]], Callable[..., Any]]) -> Iterator[None]:
    """Within the block a function of transformers, by its module or class, is what ``wrapper`` makes of it.

    A version that has no such function loads as well: with more memory, and by indexes that do not err.
    """
    original = getattr(owner, name, None)
    if original is None:
        yield
        return
    setattr(owner, name, wrapper(original))
    try:
        yield
    finally:
        setattr(owner, name, original)


@contextmanager
def _without_offload_warning() -> Iterator[None]:
    """accelerate warns of what is asked of it here."""
    logger = logging.getLogger("accelerate.big_modeling")
    before = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(before)
