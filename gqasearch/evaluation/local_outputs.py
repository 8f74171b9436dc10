"""A quick stand-in for the final refinement: W_o of one converted layer, refitted by itself.

The final refinement goes through the model from the input upwards and sees what the layers below do to each
other; thousands of candidates cannot wait for that. Here a layer is refitted to the parent's own attention
output on the parent's own input, so the result depends on the layer's grouping alone and is kept.

    W = argmin_W  E||a_parent - W z||^2 + ridge * mean(diag E[z z^T]) * ||W - W_merged||^2
"""

from __future__ import annotations

from dataclasses import replace

import torch

from gqasearch.calibration import TokenBlocks
from gqasearch.evaluation.attention_calls import AttentionCalls
from gqasearch.models import LayerWeights, Parent


class LocalOutputs:
    """Refits W_o of any layer to what the parent's attention gives on ``blocks``."""

    def __init__(self, parent: Parent, blocks: TokenBlocks, *, ridge: float = 1e-3, batch_blocks: int = 8) -> None:
        self.calls = AttentionCalls(parent, blocks, batch_blocks=batch_blocks)
        self.ridge = ridge

    def refit(self, index: int, tied: LayerWeights) -> LayerWeights:
        """``tied``, a converted layer in the parent's shape, with its W_o refitted."""
        start = tied.o.transpose(0, 1).flatten(1).double()  # (D, Hq dv), as W_o is stored
        gram, cross = start.new_zeros(start.shape[1], start.shape[1]), torch.zeros_like(start)
        bias = getattr(self.calls.projection(index), "bias", None)
        for batch in self.calls.run(index, tied):
            z = batch.heads.double()
            wanted = (batch.parent if bias is None else batch.parent - bias).double()
            gram += z.T @ z
            cross += wanted.T @ z
        penalty = (self.ridge * gram.diagonal().mean()).clamp_min(torch.finfo(gram.dtype).tiny)
        gram.diagonal().add_(penalty)
        solved = torch.linalg.solve(gram, cross + penalty * start, left=False)
        return replace(tied, o=solved.unflatten(1, (tied.q.shape[0], -1)).transpose(0, 1).to(tied.o))
