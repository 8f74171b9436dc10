"""What rounding costs in a basis, as a function of the basis that can be descended."""

from __future__ import annotations

from collections.abc import Sequence
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


def rounding_cost(
    sample: SideSample, basis: Tensor, cache: CacheFormat, order: Tensor, back: Tensor | None = None
) -> Tensor:
    """Mean over tokens of what rounding costs every head when ``basis`` (G, d, d) times its rows is cached, (G,).

    ``order`` (d,): which of our dimensions stands at each place of the cache; ``back``: the inverse of ``basis``.
    """
    turned = torch.einsum("gde,gnte->ngtd", basis, sample.rows)
    turned = turned[..., order]
    error = cache.round(turned) - turned
    inverse = torch.linalg.inv(basis) if back is None else back
    error = torch.einsum("gde,ngte->gntd", inverse[..., order], error)
    return (torch.einsum("gntd,gde->gnte", error, sample.reads) * error).sum(-1).mul(sample.weight).mean((1, 2))
