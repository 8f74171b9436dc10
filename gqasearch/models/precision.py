"""Products in bfloat16, where that is faster and changes no figure that is reported.

Processors with bfloat16 arithmetic multiply matrices in it about twice as fast as in float32. Under autocast only the
products are rounded (to 8 bits of 24): the residual stream, norms and softmax stay in float32, and so does every sum
over tokens.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from functools import cache

import torch

from gqasearch.models.parent import Parent

# Narrower layers gain nothing: their time goes into calls.
LEAST_WIDTH = 512
# What torch calls the instructions, of x86 and of Arm.
INSTRUCTIONS = ("avx512_bf16", "amx_bf16", "amx_tile", "bf16")

# A product of TIMED_TOKENS rows and a square matrix is timed, and is worth a word from SLOW times float32's seconds.
TIMED_TOKENS, TIMED_WIDTH, SLOW = 256, 1024, 1.5


def quick_products(parent: Parent) -> AbstractContextManager[None]:
    """Within the block this model's products are in bfloat16, if it is wide and the device is made for that."""
    device = parent.device
    usable = parent.model.dtype == torch.float32 and parent.geometry.hidden_size >= LEAST_WIDTH
    return torch.autocast(device.type, torch.bfloat16) if usable and has_bfloat16(device) else nullcontext()


@cache
def has_bfloat16(device: torch.device) -> bool:
    """Whether the device multiplies in bfloat16 faster than in float32."""
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    if device.type != "cpu":
        return False
    tell: Callable[[], dict[str, object]] = getattr(torch.cpu, "get_capabilities", dict)  # newer than our oldest torch
    found = tell()
    return any(found.get(name) for name in INSTRUCTIONS)


def slow_words(dtype: torch.dtype, device: torch.device) -> str | None:
    """Words on a dtype in which this machine multiplies slowly; None for one that takes no longer than float32.

    Processors without arithmetic for 16-bit numbers (most desktops') take up to ten times as long in them.
    """
    if device.type != "cpu" or dtype == torch.float32:
        return None
    times = product_seconds(dtype) / product_seconds(torch.float32)
    name = str(dtype).removeprefix("torch.")
    if times < SLOW:
        return None
    return (
        f"dtype {name}: this processor multiplies {times:.1f} times as long in it as in float32, which takes twice the "
        "memory for the one layer that is held (--dtype float32)"
    )


@cache
def product_seconds(dtype: torch.dtype) -> float:
    """Seconds of the timed product on the CPU, the least of two after one that is not counted."""
    x, w = torch.ones(TIMED_TOKENS, TIMED_WIDTH, dtype=dtype), torch.ones(TIMED_WIDTH, TIMED_WIDTH, dtype=dtype)
    found = []
    for _ in range(3):
        begun = time.perf_counter()
        torch.nn.functional.linear(x, w)
        found.append(time.perf_counter() - begun)
    return min(found[1:])
