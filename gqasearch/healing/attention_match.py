"""What every layer's attention gives, in the student and in the parent: a second target beside the predictions."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn


class AttentionMatch:
    """Notes the outputs of the attention blocks of two models as they run on the same batch.

    ``paths``: module paths of the blocks, the same in both.
    """

    def __init__(self, student: nn.Module, parent: nn.Module, paths: list[str]) -> None:
        self._student: dict[str, Tensor] = {}
        self._parent: dict[str, Tensor] = {}
        for model, noted in ((student, self._student), (parent, self._parent)):
            for path in paths:
                model.get_submodule(path).register_forward_hook(_note(noted, path))

    def error(self) -> Tensor:
        """Squared error of the student's outputs over the parent's square, averaged over layers; of the last batch."""
        shares = []
        for path, own in self._student.items():
            wanted = self._parent[path].float()
            shares.append((own.float() - wanted).square().mean() / wanted.square().mean().clamp_min(1e-12))
        self._student.clear()
        self._parent.clear()
        return torch.stack(shares).mean()


def _note(noted: dict[str, Tensor], path: str) -> Any:
    def hook(_module: nn.Module, _args: Any, output: Any) -> None:
        noted[path] = output[0] if isinstance(output, tuple) else output

    return hook
