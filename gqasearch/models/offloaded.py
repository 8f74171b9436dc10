"""A checkpoint that runs from its files: a module reads its weights when it is called, and lets go of them after."""

from __future__ import annotations

import ctypes
import logging
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import transformers.core_model_loading
import transformers.modeling_utils
from accelerate.hooks import ModelHook, add_hook_to_module
from torch import Tensor, nn
from transformers import PreTrainedModel

from gqasearch.models.loading import from_files
from gqasearch.models.tensors import CheckpointTensors

_LIBC = ctypes.CDLL(None) if sys.platform == "linux" else None
# Where functions of transformers are looked up, and which: one reads a tensor of a file, one says what lies where.
_READS_ONE = (transformers.core_model_loading, "_materialize_copy")
_PLACES = (transformers.modeling_utils, "accelerate_disk_offload")


def load_offloaded(directory: Path, *, trust_remote_code: bool = False) -> PreTrainedModel:
    """The model in ``directory`` as transformers loads it, computing in float32 on the CPU, its weights on disk.

    What is in memory at a time is the module that is called: the largest is the output head, as a rule.
    ``trust_remote_code``: see ``load_model``. Raises ``UserError`` as ``from_files`` does.
    """
    tensors = CheckpointTensors(directory)
    with (
        _without_offload_warning(),
        _wrapped(*_READS_ONE, _nothing_read),
        _wrapped(*_PLACES, _as_stored(tensors)),
    ):
        model = from_files(tensors, torch.float32, device_map={"": "disk"}, trust_remote_code=trust_remote_code)
    if not _embeddings_are_stored(tensors, model):
        model = from_files(tensors, torch.float32, trust_remote_code=trust_remote_code)
    for module in model.modules():
        if any(parameter.dim() > 1 for parameter in module.parameters(recurse=False)):
            module.register_forward_hook(lambda *_: _give_back())
    found: PreTrainedModel = model.eval()
    return found


def _give_back() -> None:
    """Let the system have the memory of weights that are gone.

    glibc would keep it: matrices of several sizes come and go, and its heap grows to a good part of the model.
    """
    if (trim := getattr(_LIBC, "malloc_trim", None)) is not None:
        trim(0)


def _embeddings_are_stored(tensors: CheckpointTensors, model: PreTrainedModel) -> bool:
    """Whether under their own name. A tied head that stands for both is not found by the name of the other."""
    embeddings = model.get_input_embeddings()
    name = next(name for name, module in model.named_modules() if module is embeddings)
    return any(f"{name}.weight" in (stored, f"{model.base_model_prefix}.{stored}") for stored in tensors.shard_of)


def replace_tensors(model: PreTrainedModel, reader_of: Mapping[str, Callable[[str], Tensor]]) -> None:
    """Let an offloaded ``model`` compute with other values for some parameters: name -> what reads it by name."""
    by_module: dict[str, dict[str, Callable[[], Tensor]]] = {}
    for name, read in reader_of.items():
        path, _, own = name.rpartition(".")
        by_module.setdefault(path, {})[own] = lambda read=read, name=name: read(name)  # type: ignore[misc]
    for path, readers in by_module.items():
        add_hook_to_module(model.get_submodule(path), _Replacing(readers), append=True)


class _Replacing(ModelHook):  # type: ignore[misc]
    """Runs after the hook that reads a module's weights; that one lets go of these too."""

    def __init__(self, readers: Mapping[str, Callable[[], Tensor]]) -> None:
        self._readers = readers

    def pre_forward(self, module: nn.Module, *args: Any, **kwargs: Any) -> tuple[Any, Any]:
        for name, read in self._readers.items():
            tensor = read().to(torch.float32)
            if tensor.shape != getattr(module, name).shape:
                raise ValueError(f"{name} was computed in shape {tuple(tensor.shape)}")
            setattr(module, name, nn.Parameter(tensor, requires_grad=False))
        return args, kwargs


def _nothing_read(original: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """transformers reads every weight that is to stay on disk, and drops it: 2 GB of mapped pages for 1 B parameters.

    Here matrices are not read; vectors are, among which are the buffers that have to be.
    """

    def without_values(tensor: Any, device: Any = None, dtype: Any = None) -> Tensor:
        if hasattr(tensor, "get_shape") and len(tensor.get_shape()) > 1 and dtype == torch.float32:
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
def _wrapped(module: Any, name: str, wrapper: Callable[[Callable[..., Any]], Callable[..., Any]]) -> Iterator[None]:
    """Within the block a function of transformers is what ``wrapper`` makes of it.

    A version that has no such function loads as well: with more memory, and by indexes that do not err.
    """
    original = getattr(module, name, None)
    if original is None:
        yield
        return
    setattr(module, name, wrapper(original))
    try:
        yield
    finally:
        setattr(module, name, original)


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
