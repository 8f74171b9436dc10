"""Query slots that only fill up a smaller group: they are zero, and stay zero in training.

An empty slot attends evenly and its output is multiplied by columns of ``o`` that are zero. These columns would get
gradients, the values that it attends to are not zero; so gradients there are dropped (``layout`` of
``gqasearch.checkpoints`` says why there are such slots).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from gqasearch.models import Family


@dataclass(frozen=True)
class EmptySlots:
    """Where the empty slots of a model are. ``columns``: by module path of an output projection, (slots * d,) bool;
    ``rows``: by module path of a projection that makes the queries, (rows,) bool.
    """

    columns: Mapping[str, Tensor]
    rows: Mapping[str, Tensor]

    def hold_zero(self, model: nn.Module) -> None:
        """From now on gradients of the zeros are zero. LoRA's factors are zeroed and held where they reach them."""
        modules = dict(model.named_modules())
        for place, masks in ((1, self.columns), (0, self.rows)):
            for path, empty in masks.items():
                module = _find(modules, path)
                for parameter, axis in _reaching(module, place):
                    _hold(parameter, empty, axis)


def find_empty_slots(model: nn.Module, family: Family, layers: int, head_dim: int) -> EmptySlots:
    """The slots of a converted model whose q rows and o columns are all zero. ``family``: what it is written as."""
    columns: dict[str, Tensor] = {}
    rows: dict[str, Tensor] = {}
    for layer in range(layers if family.has_grouped_form else 0):  # others are only ever ragged, which pads nothing
        o_path, q_path = (_module_of(family, layer, role) for role in ("o", "q"))
        o, q = (model.get_parameter(f"{path}.weight").detach() for path in (o_path, q_path))
        width = o.shape[1] if o.shape[1] % head_dim == 0 else 0
        empty = ~o.any(0) & ~q[:width].any(1) if 0 < width <= q.shape[0] else torch.zeros(0, dtype=torch.bool)
        whole = empty.unflatten(0, (-1, head_dim)).all(1).repeat_interleave(head_dim) if len(empty) else empty
        if whole.any():
            columns[o_path] = whole
            rows[q_path] = torch.cat([whole, whole.new_zeros(q.shape[0] - width)])
    return EmptySlots(columns, rows)


def _module_of(family: Family, layer: int, role: str) -> str:
    return family.tensor_name(layer, f"{role}.weight").removesuffix(".weight")


def _find(modules: Mapping[str, nn.Module], path: str) -> nn.Module:
    """The module of this path, also inside a wrapper such as peft's."""
    return modules[path] if path in modules else next(m for name, m in modules.items() if name.endswith(f".{path}"))


def _reaching(module: Any, axis: int) -> list[tuple[nn.Parameter, int]]:
    """Parameters that make up the weight's (and with axis 0 the bias's) entries along ``axis``, with their own axis."""
    base = getattr(module, "base_layer", module)
    found: list[tuple[Any, int]] = [(base.weight, axis)]
    if axis == 0 and getattr(base, "bias", None) is not None:
        found.append((base.bias, 0))
    factors = getattr(module, "lora_A" if axis == 1 else "lora_B", None)
    if factors is not None:
        found += [(factor.weight, axis) for factor in factors.values()]
    return found


def _hold(parameter: nn.Parameter, empty: Tensor, axis: int) -> None:
    keep = (~empty).to(parameter.device, parameter.dtype)
    keep = keep[:, None] if axis == 0 and parameter.ndim == 2 else keep
    with torch.no_grad():
        parameter.mul_(keep)
    if parameter.requires_grad:
        parameter.register_hook(lambda gradient: gradient * keep)
