"""Where a healing run stands: enough to go on to the same bits. Safetensors and JSON, no pickles.

``state/step-N/`` has what is trained, the optimiser's moments, the best weights if they are to be kept, and in
``state.json`` everything else. It appears whole; the one before it is removed after that.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from gqasearch.errors import UserError
from gqasearch.files import read_json, save_tensors

MODEL, OPTIMIZER, BEST, RECORD = "model.safetensors", "optimizer.safetensors", "best.safetensors", "state.json"


@dataclass
class HealState:
    """``trained``: name -> value of every trained parameter; ``optimizer``, ``schedule``: their ``state_dict``.

    ``history``: the lines so far; ``best``: trained parameters at the lowest validation KL, if they are kept;
    ``random`` (bytes,): of torch's generators, by device.
    """

    step: int
    trained: dict[str, Tensor]
    optimizer: dict[str, Any]
    schedule: dict[str, Any]
    history: list[dict[str, Any]] = field(default_factory=list)
    best: dict[str, Tensor] | None = None
    random: dict[str, Tensor] = field(default_factory=dict)


def save_state(folder: Path, state: HealState) -> None:
    """Write ``folder/step-N`` and remove what was there before."""
    target = folder / f"step-{state.step}"
    aside = folder / f".step-{state.step}.partial"
    shutil.rmtree(aside, ignore_errors=True)
    aside.mkdir(parents=True)
    moments, groups = _flat(state.optimizer)
    save_tensors(aside / MODEL, _own(state.trained))
    random = {f"random.{name}": value for name, value in state.random.items()}
    save_tensors(aside / OPTIMIZER, _own({**moments, **random}))
    if state.best is not None:
        save_tensors(aside / BEST, _own(state.best))
    record = {"step": state.step, "groups": groups, "schedule": state.schedule, "history": state.history}
    (aside / RECORD).write_text(json.dumps(record, allow_nan=False) + "\n", encoding="utf-8")
    if target.is_dir():
        shutil.rmtree(target)
    aside.replace(target)
    for other in folder.iterdir():
        if other != target and other.name.lstrip(".").startswith("step-"):
            shutil.rmtree(other, ignore_errors=True)


def latest_state(folder: Path) -> HealState | None:
    """The state to go on from; None where nothing was saved yet. Raises ``UserError`` for a damaged one."""
    found = sorted(folder.glob("step-*"), key=lambda path: int(path.name.partition("-")[2]))
    if not found:
        return None
    path = found[-1]
    record = read_json(path / RECORD)
    try:
        stored = load_file(path / OPTIMIZER)
        random = {name[7:]: stored.pop(name) for name in list(stored) if name.startswith("random.")}
        best = load_file(path / BEST) if (path / BEST).is_file() else None
        optimizer = {"state": _nested(stored), "param_groups": record["groups"]}
        trained = load_file(path / MODEL)
        return HealState(record["step"], trained, optimizer, record["schedule"], record["history"], best, random)
    except (OSError, KeyError, ValueError, SafetensorError) as error:
        raise UserError(f"{path} is damaged: {error}; remove it to begin anew") from None


def random_state(device: torch.device) -> dict[str, Tensor]:
    """State of the generators that dropout draws from."""
    states = {"cpu": torch.get_rng_state()}
    if device.type == "cuda":
        states["cuda"] = torch.cuda.get_rng_state(device)
    return states


def set_random_state(states: Mapping[str, Tensor], device: torch.device) -> None:
    """Put the generators back."""
    if "cpu" in states:
        torch.set_rng_state(states["cpu"])
    if "cuda" in states and device.type == "cuda":
        torch.cuda.set_rng_state(states["cuda"], device)


def _flat(optimizer: Mapping[str, Any]) -> tuple[dict[str, Tensor], list[dict[str, Any]]]:
    """Tensors by ``INDEX.NAME``, and the parameter groups."""
    tensors = {
        f"{index}.{name}": value
        for index, moments in optimizer["state"].items()
        for name, value in moments.items()
        if isinstance(value, Tensor)
    }
    return tensors, list(optimizer["param_groups"])


def _nested(tensors: Mapping[str, Tensor]) -> dict[int, dict[str, Tensor]]:
    state: dict[int, dict[str, Tensor]] = {}
    for key, value in tensors.items():
        index, _, name = key.partition(".")
        state.setdefault(int(index), {})[name] = value
    return state


def _own(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Contiguous copies on the CPU that share no memory, as safetensors wants them."""
    return {name: tensor.detach().to("cpu", copy=True).contiguous() for name, tensor in tensors.items()}
