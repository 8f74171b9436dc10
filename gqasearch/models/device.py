"""Where a model may run."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import torch

from gqasearch.errors import UserError


def resolve_device(device: str) -> str:
    """What ``auto`` stands for: the first GPU, Apple's, or the CPU; any other name as it is, the first of several."""
    if device != "auto":
        return devices_of(device)[0]
    if torch.cuda.is_available():
        return "cuda"
    return "mps" if torch.backends.mps.is_available() else "cpu"


def devices_of(device: str) -> tuple[str, ...]:
    """The devices that ``--device`` names: one, or several with commas between them that layers are spread over."""
    return (resolve_device(device),) if device == "auto" else tuple(name.strip() for name in device.split(","))


def check_device(device: str) -> None:
    """Raises ``UserError`` for a device that torch does not know, that is not here or that computes nothing (meta)."""
    for name in devices_of(device):
        try:
            torch.ones(1, device=name).item()
        except (RuntimeError, AssertionError, NotImplementedError) as error:
            first = str(error).splitlines()[0].partition(". ")[0]
            raise UserError(f"--device {name} cannot be used here: {first[:200]}") from None
    kinds = {torch.device(name).type for name in devices_of(device)}
    if len(kinds) > 1:
        raise UserError(
            f"--device {device}: layers are spread over devices of one kind, not {' and '.join(sorted(kinds))}"
        )


@cache
def cpu_capabilities() -> dict[str, object]:
    """What torch says of this processor, by name: its architecture and instructions. {} where torch does not say."""
    tell: Callable[[], dict[str, object]] = getattr(torch.cpu, "get_capabilities", dict)  # newer than our oldest torch
    return tell()
