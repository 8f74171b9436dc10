"""Models whose weights are read on demand: made by transformers, which says which stored tensor each parameter is.

Everything else of such a model runs as it is.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import torch
from accelerate.hooks import SequentialHook, remove_hook_from_module
from accelerate.utils.offload import OffloadedWeightsLoader, PrefixedDataset
from torch import nn
from transformers import PreTrainedModel

from gqasearch.errors import UserError
from gqasearch.models.assembled import AssembledTensors
from gqasearch.models.device import check_device, devices_of
from gqasearch.models.loading import from_files, load_model, require_runs
from gqasearch.models.on_demand import ATTRIBUTE, OnDemand, device_of, on_demand
from gqasearch.models.skeleton import without_values
from gqasearch.models.spread import Spread
from gqasearch.models.tensors import CheckpointTensors

# Bytes of weights that stay in memory, besides those of the module that runs and of those that are held.
ROOM = 2**28


def load_model_within(
    directory: Path, dtype: torch.dtype, device: str, *, room: int | None = None, trust_remote_code: bool = False
) -> PreTrainedModel:
    """The model in ``directory``: all of it in memory where it fits ``room`` bytes, else with weights on demand.

    ``device``: one, or several with commas between them: layers are then spread over these, with weights on demand.
    ``room``: of each; ``ROOM`` if not given, on other devices half of what is free there. Raises ``UserError`` as
    ``load_model`` does.
    """
    devices = devices_of(device)
    check_device(device)
    room = room_on(device) if room is None else room
    tensors = CheckpointTensors(directory)
    values = sum(math.prod(tensors.stored(name).shape) for name in tensors.shard_of)
    if values * dtype.itemsize <= room and len(devices) == 1:
        return load_model(directory, dtype, device, trust_remote_code=trust_remote_code)
    model = load_on_demand(directory, dtype, device, room=room, trust_remote_code=trust_remote_code)
    if (weights := on_demand(model)) is not None:
        weights.require_finite()
    require_runs(model, directory, device_of(model))
    return model


def room_on(device: str) -> int:
    """Bytes of weights that may stay on a device, or on each of several."""
    places = [torch.device(name) for name in devices_of(device)]
    if places[0].type != "cuda":
        return ROOM
    return min(torch.cuda.mem_get_info(place)[0] // 2 for place in places)


def load_on_demand(
    directory: Path, dtype: torch.dtype, device: str, *, room: int = ROOM, trust_remote_code: bool = False
) -> PreTrainedModel:
    """The model in ``directory`` as transformers loads it, with weights that are read when they are needed.

    Raises ``UserError`` as ``load_model`` does, but for values that are not finite and for a model that does not run.
    """
    tensors = CheckpointTensors(directory)
    with without_values(tensors) as noted:
        model = from_files(tensors, dtype, device_map={"": "disk"}, trust_remote_code=trust_remote_code)
    tensors = AssembledTensors(directory, noted.parts)
    stored = _stored_names(model, tensors)
    devices = devices_of(device)
    if stored is None:
        if len(devices) > 1:
            raise UserError(
                f"--device {device}: {directory} cannot be spread over devices, as transformers does not say which of "
                f"its files' tensors every weight is. Give one device"
            )
        model = from_files(tensors, dtype, trust_remote_code=trust_remote_code)
        nn.Module.to(model, torch.device(devices[0]))  # in place; transformers' own wrapper hides the signature
        model.eval()
        return model
    remove_hook_from_module(model, recurse=True)
    spread = Spread(model, devices)
    for module in model.modules():
        module.__dict__.pop("forward", None)  # what accelerate leaves there is the class's own
        for name, buffer in module.named_buffers(recurse=False):
            setattr(module, name, buffer.to(spread.of(module)))
    setattr(model, ATTRIBUTE, OnDemand(model, tensors, stored, spread, room))
    for part in [one for one in model.modules() if isinstance(one, PreTrainedModel)]:
        part.__class__ = _placed(type(part), spread.of(part))
    found: PreTrainedModel = model.eval()
    return found


def _placed(kind: type[PreTrainedModel], device: torch.device) -> type[PreTrainedModel]:
    """The same class, whose models say that they compute on ``device``, not where a weight happens to be.

    transformers' own ``generate`` and lm-eval put their inputs there, and some models what their parts give.
    """
    members = {"device": property(lambda _: device), "__module__": kind.__module__, "__doc__": kind.__doc__}
    return type(kind.__name__, (kind,), members)


def _stored_names(model: PreTrainedModel, tensors: AssembledTensors) -> dict[str, str] | None:
    """Parameter -> the stored tensor that transformers would read for it; None where it names none for some."""
    found: dict[str, str] = {}
    tied = model.get_expanded_tied_weights_keys(all_submodels=True)
    missing = []
    for path, module in model.named_modules():
        hook = module.__dict__.get("_hf_hook")
        for own, parameter in module.named_parameters(recurse=False, remove_duplicate=False):
            if not parameter.is_meta:
                continue
            name = f"{path}.{own}" if path else own
            place = _place(hook, own)
            if place is None or (place not in tensors.shard_of and place not in tensors.made_of):
                missing.append(name)
            else:
                found[name] = place
    for name in missing:  # stored under the name of the one that it is tied to
        others = [*(one for one in tied if tied[one] == name), tied.get(name)]
        place = next((found[one] for one in others if one in found), None)
        if place is None:
            return None
        found[name] = place
    return found


def _place(hook: Any, own: str) -> str | None:
    """What accelerate's hook of a module calls the stored tensor of one of its parameters."""
    hooks = hook.hooks if isinstance(hook, SequentialHook) else (hook,)
    for one in hooks:
        weights = getattr(one, "weights_map", None)
        if isinstance(weights, PrefixedDataset) and isinstance(weights.dataset, OffloadedWeightsLoader):
            place = weights.dataset.index.get(f"{weights.prefix}{own}")
            return None if place is None else str(place.get("weight_name", f"{weights.prefix}{own}"))
    return None
