"""Products of 16-bit models on processors without arithmetic for 16 bits: in float32, and rounded once.

There torch multiplies 16-bit matrices six times slower than float32's (findings/torch-bfloat16-slower-than-casting.sh),
while converting a whole weight for every product costs a tenth of the product.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import linear

from gqasearch.models.device import cpu_capabilities


class CastLinear(nn.Linear):
    """A linear layer whose weights stay in 16 bits and whose product on the CPU is float32's, rounded to 16 bits."""

    def forward(self, input: Tensor) -> Tensor:
        if input.device.type != "cpu" or input.dtype == torch.float32:
            return super().forward(input)
        bias = None if self.bias is None else self.bias.float()  # type: ignore[redundant-expr]  # torch says it has one
        return linear(input.float(), self.weight.float(), bias).to(input.dtype)


def cast_products(model: nn.Module) -> None:
    """Let the linear layers of a 16-bit ``model`` multiply in float32 where that is much faster; weights stay."""
    for module in model.modules() if multiplies_16_bits_slowly() else ():
        if type(module) is nn.Linear and module.weight.dtype in (torch.bfloat16, torch.float16):
            # The class alone: parameters, hooks and copies of the module are those of a linear layer.
            module.__class__ = CastLinear


def multiplies_16_bits_slowly() -> bool:
    """Whether this is an x86 processor on which torch has no kernels of its own for 16 bits."""
    found = cpu_capabilities()
    return found.get("architecture") == "x86_64" and not (found.get("avx512_f") or found.get("avx_ne_convert"))
