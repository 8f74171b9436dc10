"""Where a model may run."""

from __future__ import annotations

import torch

from gqasearch.errors import UserError


def resolve_device(device: str) -> str:
    """What ``auto`` stands for: the first GPU, Apple's, or the CPU; any other name as it is."""
    if device != "auto":
        return device
    if torch.cuda.is_available():
        return "cuda"
    return "mps" if torch.backends.mps.is_available() else "cpu"


def check_device(device: str) -> None:
    """Raises ``UserError`` for a device that torch does not know, that is not here or that computes nothing (meta)."""
    try:
        torch.ones(1, device=resolve_device(device)).item()
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        first = str(error).splitlines()[0].partition(". ")[0]
        raise UserError(f"--device {device} cannot be used here: {first[:200]}") from None
