"""What rounded keys do to the output of attention, measured: no first order, all tokens at once."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from gqasearch.models import LayerWeights
from gqasearch.models.attention_inputs import AttentionInputs
from gqasearch.rounding import CacheFormat

TOKENS = 256  # of a block, from its beginning: attention maps grow with their square
UNSEEN = -1e9  # added to scores; infinities have no gradient


class AttentionCost:
    """Mean over queries of ||W_o (out' - out)||^2, where out' attends to keys as they are read back from the cache.

    ``calls``, ``masks``, ``keys_of``: see ``sides_of``. Values are not rounded here: what that does is linear.
    """

    def __init__(
        self,
        calls: Sequence[AttentionInputs],
        masks: Sequence[Tensor],
        weights: LayerWeights,
        keys_of: Sequence[int],
        cache: CacheFormat,
        order: Tensor,
    ) -> None:
        tokens = min(TOKENS, calls[0].key.shape[2])
        asked, keys, values = (
            torch.cat([part[:, :, :tokens].float() for part in parts])
            for parts in zip(*((call.query, call.key, call.value) for call in calls), strict=True)
        )  # (N, heads, T, d)
        self._per_head = asked.shape[1] // keys.shape[1]
        self._queries: list[list[int]] = [[] for _ in range(1 + max(keys_of))]
        for query, head in enumerate(keys_of):
            self._queries[head].append(query)
        self._asked, self._keys, self._values = asked * calls[0].scale, keys, values
        self._counted = torch.cat([mask[:, :tokens] for mask in masks]).to(keys)
        self._unseen = torch.cat([_unseen(call, tokens) for call in calls])  # (N, T, T)
        self._roots = [of_query.float() for of_query in weights.o]  # (D, dv) of every query head
        self._cache, self._order = cache, order

    def __call__(self, basis: Tensor, blocks: Sequence[int]) -> Tensor:
        costs = [self._of_head(head, one, list(blocks)) for head, one in enumerate(basis)]
        return torch.stack(costs)

    def _of_head(self, head: int, basis: Tensor, blocks: list[int]) -> Tensor:
        queries = self._queries[head]
        sources = [query // self._per_head for query in queries]
        keys = self._keys[blocks, sources[0]]  # (B, T, d): heads that are tied have one key
        turned = (keys @ basis.mT)[..., self._order]
        read = torch.linalg.solve(basis[self._order], self._cache.round(turned).mT).mT
        unseen, counted = self._unseen[blocks], self._counted[blocks]
        cost = keys.new_zeros(())
        for query, source in zip(queries, sources, strict=True):
            asked, values = self._asked[blocks, query], self._values[blocks, source]
            attention, rounded = ((asked @ side.mT + unseen).softmax(-1) for side in (keys, read))
            moved = (rounded - attention) @ values
            wide = self._roots[query].to(moved)
            cost = cost + (((moved @ (wide.mT @ wide)) * moved).sum(-1) * counted).sum()
        return cost / counted.sum().clamp_min(1)


def _unseen(call: AttentionInputs, tokens: int) -> Tensor:
    """What is added to scores, (B, T, T)."""
    batch = len(call.key)
    if call.mask is None:
        seen = torch.ones(tokens, tokens, dtype=torch.bool, device=call.key.device).tril().expand(batch, -1, -1)
    elif call.mask.dtype == torch.bool:
        seen = call.mask[:, 0, :tokens, :tokens].expand(batch, -1, -1)
    else:
        return call.mask[:, 0, :tokens, :tokens].float().clamp_min(UNSEEN).expand(batch, -1, -1)
    return torch.zeros(seen.shape, device=seen.device).masked_fill(~seen, UNSEEN)
