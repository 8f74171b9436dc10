"""A quick stand-in for the final refinement: W_o of one converted layer, refitted by itself.

The final refinement goes through the model from the input upwards and sees what the layers below do to each
other; thousands of candidates cannot wait for that. Here a layer is refitted to the parent's own attention
output on the parent's own input, so the result depends on the layer's grouping alone and is kept.

    W = argmin_W  E||a_parent - W z||^2 + ridge * mean(diag E[z z^T]) * ||W - W_merged||^2
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from gqasearch.calibration import TokenBlocks
from gqasearch.models import LayerWeights, Parent, layers_replaced


@dataclass(frozen=True)
class _Call:
    """One call of an attention block: its arguments, what it gave (tokens, D), and which tokens count."""

    arguments: dict[str, Any]
    output: Tensor
    mask: Tensor


class LocalOutputs:
    """What every attention block of the parent is given and gives on ``blocks``: 2 * layers * tokens * D values."""

    def __init__(self, parent: Parent, blocks: TokenBlocks, *, ridge: float = 1e-3, batch_blocks: int = 8) -> None:
        self.parent = parent
        self.ridge = ridge
        self._calls: list[list[_Call]] = [[] for _ in range(parent.geometry.num_layers)]
        for ids, mask in blocks.batches(batch_blocks):
            self._record(ids, mask)

    def _record(self, ids: Tensor, mask: Tensor) -> None:
        device = self.parent.device
        mask = mask.to(device)

        def note(calls: list[_Call]) -> Any:
            def hook(_module: torch.nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
                arguments = kwargs if not args else {**kwargs, "hidden_states": args[0]}
                calls.append(_Call(arguments, output[0][mask], mask))

            return hook

        handles = [
            self._attention(index).register_forward_hook(note(calls), with_kwargs=True)
            for index, calls in enumerate(self._calls)
        ]
        try:
            with torch.no_grad():
                self.parent.model(input_ids=ids.to(device), attention_mask=mask.long(), use_cache=False)
        finally:
            for handle in handles:
                handle.remove()

    def _attention(self, index: int) -> torch.nn.Module:
        return self.parent.model.get_submodule(self.parent.family.attention_path(index))

    def refit(self, index: int, tied: LayerWeights) -> LayerWeights:
        """``tied``, a converted layer in the parent's shape, with its W_o refitted."""
        start = tied.o.transpose(0, 1).flatten(1).double()  # (D, Hq dv), as W_o is stored
        gram, cross = start.new_zeros(start.shape[1], start.shape[1]), torch.zeros_like(start)
        seen: list[Tensor] = []
        path = self.parent.family.tensor_name(index, "o.weight").removesuffix(".weight")
        projection = self.parent.model.get_submodule(path)
        bias = getattr(projection, "bias", None)
        handle = projection.register_forward_pre_hook(lambda _module, args: seen.append(args[0]))
        try:
            with torch.no_grad(), layers_replaced(self.parent, {index: tied}):
                for call in self._calls[index]:
                    self._attention(index)(**call.arguments)
                    z = seen.pop()[call.mask].double()
                    wanted = (call.output if bias is None else call.output - bias).double()
                    gram += z.T @ z
                    cross += wanted.T @ z
        finally:
            handle.remove()
        penalty = (self.ridge * gram.diagonal().mean()).clamp_min(torch.finfo(gram.dtype).tiny)
        gram.diagonal().add_(penalty)
        solved = torch.linalg.solve(gram, cross + penalty * start, left=False)
        return replace(tied, o=solved.unflatten(1, (tied.q.shape[0], -1)).transpose(0, 1).to(tied.o))
