"""What rounding costs in a basis, as a function of the basis that can be descended."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from gqasearch.basis.sample import SideSample
from gqasearch.rounding import CacheFormat

ROUNDINGS = (torch.Tensor.round, torch.round, torch.Tensor.trunc, torch.trunc)


class WithSteps(TorchFunctionMode):
    """Within the block the gradient of rounding to integers is that of the identity.

    A number x becomes s * integer(x / s), off by s times what is left over; what is left over is as good as random,
    so the error's gradient is that of the step s, as in LSQ (https://arxiv.org/abs/1902.08153), and s follows the
    largest numbers around x.
    """

    def __torch_function__(
        self, func: Any, types: Sequence[Any], args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if func not in ROUNDINGS:
            return func(*args, **(kwargs or {}))
        x = args[0]
        return x + (func(x.detach(), **(kwargs or {})) - x).detach()


@dataclass(frozen=True)
class SideCost:
    """Mean over tokens of what rounding costs every head, to first order: see ``SideSample``.

    ``order`` (d,): which of our dimensions stands at each place of the cache.
    """

    sample: SideSample
    cache: CacheFormat
    order: Tensor

    def __call__(self, basis: Tensor, blocks: Sequence[int]) -> Tensor:
        """Of ``basis`` (G, d, d) on these blocks, (G,)."""
        sample = self.sample.blocks(blocks)
        turned = torch.einsum("gde,gnte->ngtd", basis, sample.rows)[..., self.order]
        error = self.cache.round(turned) - turned
        error = torch.einsum("gde,ngte->gntd", torch.linalg.inv(basis)[..., self.order], error)
        return (torch.einsum("gntd,gde->gnte", error, sample.reads) * error).sum(-1).mul(sample.weight).mean((1, 2))
