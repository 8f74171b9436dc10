"""Products in bfloat16, where that is faster and changes no figure that is reported.

Processors with bfloat16 arithmetic multiply matrices in it about twice as fast as in float32. Under autocast only the
products are rounded (to 8 bits of 24): the residual stream, norms and softmax stay in float32, and so does every sum
over tokens.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from functools import cache

import torch

from gqasearch.models.device import cpu_capabilities
from gqasearch.models.parent import Parent

# Narrower layers gain nothing: their time goes into calls.
LEAST_WIDTH = 512
# What torch calls the instructions, of x86 and of Arm.
INSTRUCTIONS = ("avx512_bf16", "amx_bf16", "amx_tile", "bf16")


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
    return any(cpu_capabilities().get(name) for name in INSTRUCTIONS)
