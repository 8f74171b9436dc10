"""A healed checkpoint is loaded back and held against the model that was trained."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from gqasearch.checkpoints.loaded_back import ALLOWED, CheckBlock, LoadedBack, compare, logits, logits_of_folder
from gqasearch.checkpoints.remote_code import runs_own_code


def check_healed_back(
    folder: Path, model: nn.Module, stored: Mapping[int, torch.dtype], block: CheckBlock
) -> LoadedBack:
    """Run the checkpoint in ``folder`` and the ``model`` that was written to it on ``block``.

    ``stored``: id of a parameter -> the dtype it is stored in; the model runs with its weights rounded to that. Raises
    ``UserError`` where the two differ by more than the rounding of float32.
    """
    with rounded(model, stored):
        # Training in mixed precision leaves a ``forward`` on the model itself that computes in it.
        wanted = logits(model, block, partial(type(model).forward, model))
    found = logits_of_folder(folder, runs_own_code(folder), block)
    return compare(found, wanted, "of its start, healed", ALLOWED * float(wanted.abs().max()), block)


@contextmanager
def rounded(model: nn.Module, stored: Mapping[int, torch.dtype]) -> Iterator[None]:
    """Within the block ``model`` is in evaluation mode and every module rounds its weights while it runs."""
    before: dict[nn.Module, list[tuple[nn.Parameter, Tensor]]] = {}

    def enter(module: nn.Module, _args: Any) -> None:
        mine = [parameter for parameter in module.parameters(recurse=False) if id(parameter) in stored]
        before[module] = [(parameter, parameter.data) for parameter in mine]
        for parameter in mine:
            parameter.data = parameter.data.to(stored[id(parameter)]).to(parameter.dtype)

    def leave(module: nn.Module, _args: Any, _output: Any) -> None:
        for parameter, data in before.pop(module, []):
            parameter.data = data

    modules = [module for module in model.modules() if next(module.parameters(recurse=False), None) is not None]
    training = model.training
    handles = [
        handle for m in modules for handle in (m.register_forward_pre_hook(enter), m.register_forward_hook(leave))
    ]
    try:
        model.eval()
        yield
    finally:
        for handle in handles:
            handle.remove()
        for module in list(before):
            leave(module, None, None)
        model.train(training)
