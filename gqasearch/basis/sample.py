"""Keys and values of one layer on a text, and what an error of each would cost."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn.functional import pad

from gqasearch.models import LayerWeights
from gqasearch.models.attention_inputs import AttentionInputs


@dataclass(frozen=True)
class SideSample:
    """Keys or values of G KV heads as they are cached, and to first order what it costs to change them.

    ``rows`` (G, N, T, d): N blocks of T tokens; ``weight`` (G, N, T); ``reads`` (G, d, d). An error e of one token
    costs weight * e^T reads e: the mean square that it adds to the output of attention, where errors of different
    tokens are independent of each other.
    """

    rows: Tensor
    weight: Tensor
    reads: Tensor

    def blocks(self, chosen: Sequence[int]) -> SideSample:
        """Some of the blocks."""
        index = torch.tensor(chosen, device=self.rows.device)
        return SideSample(self.rows[:, index], self.weight[:, index], self.reads)


def of_one_length(
    calls: Sequence[AttentionInputs], masks: Sequence[Tensor]
) -> tuple[list[AttentionInputs], list[Tensor]]:
    """The same with padding behind all that is shorter than the longest; a batch is as long as its longest block.

    ``masks``: (B, T) bool of each call, False on padding. What is added is seen by no token and counts nowhere.
    """
    longest = max(mask.shape[1] for mask in masks)
    wider = [longest - mask.shape[1] for mask in masks]
    return (
        [_longer(call, more) if more else call for call, more in zip(calls, wider, strict=True)],
        [pad(mask, (0, more)) for mask, more in zip(masks, wider, strict=True)],
    )


def _longer(call: AttentionInputs, more: int) -> AttentionInputs:
    query, key, value = (pad(side, (0, 0, 0, more)) for side in (call.query, call.key, call.value))
    mask = call.mask  # where there is none, attention is causal: what comes last is seen by itself alone
    if mask is not None:
        mask = pad(mask, (0, more, 0, more), value=0 if mask.dtype == torch.bool else torch.finfo(mask.dtype).min)
    return replace(call, query=query, key=key, value=value, mask=mask)


def sides_of(
    calls: Sequence[AttentionInputs],
    masks: Sequence[Tensor],
    weights: LayerWeights,
    keys_of: Sequence[int],
    values_of: Sequence[int],
) -> tuple[SideSample, SideSample]:
    """Keys and values, by KV head of the converted layer.

    ``calls``: of the layer with tied heads; ``masks``: (B, T) bool of each, False on padding. ``weights``: the
    converted layer; ``keys_of``, ``values_of`` (Hq,): which KV head of each kind a query head reads.

    A query gives attention a_t to token t, and out = sum of a_t v_t. An error e of a value moves W_o out by
    a_t W_o e. An error of a key moves the score of its token by ds = scale * q^T e, and with it W_o out by
    a_t ds W_o (v_t - out).
    """
    keys, values = [_Sums(1 + max(of)) for of in (keys_of, values_of)]
    outputs = [(wide := of_query.double()).mT @ wide for of_query in weights.o]  # W_o^T W_o of every query head
    per_head = len(keys_of) // calls[0].key.shape[1]
    for call, mask in zip(calls, masks, strict=True):
        for query, (of_key, of_value) in enumerate(zip(keys_of, values_of, strict=True)):
            head = query // per_head
            key, value = (side[:, head].double() for side in (call.key, call.value))
            asked = call.query[:, query].double()
            attention = _attention(call, asked, key, mask)
            reads = outputs[query].to(value)
            squares = attention.square()
            values.add(of_value, value, squares.sum(1), reads)
            cost = squares * _distances(attention, value, reads)  # (B, T of queries, T of tokens)
            moment = torch.einsum("bq,bqd,bqe->de", cost.sum(2), asked, asked) * call.scale**2
            keys.add(of_key, key, cost.sum(1), moment / cost.sum().clamp_min(torch.finfo(cost.dtype).tiny))
        keys.close()
        values.close()
    return keys.sample(), values.sample()


def _attention(call: AttentionInputs, query: Tensor, key: Tensor, mask: Tensor) -> Tensor:
    """Of every query to every token, (B, T, T); 0 for queries that are padding."""
    scores = call.scale * query @ key.mT
    if call.mask is None:
        seen = torch.ones_like(scores[0], dtype=torch.bool).tril()
        scores = scores.masked_fill(~seen, -torch.inf)
    elif call.mask.dtype == torch.bool:
        scores = scores.masked_fill(~call.mask[:, 0], -torch.inf)
    else:
        scores = scores + call.mask[:, 0].double()
    return scores.softmax(-1).nan_to_num() * mask.to(scores.device)[..., None]


def _distances(attention: Tensor, value: Tensor, reads: Tensor) -> Tensor:
    """||W_o (v_t - out_q)||^2 of every query and token, (B, T, T); ``reads``: W_o^T W_o."""
    out = attention @ value
    read = value @ reads
    of_tokens, of_queries = (read * value).sum(-1), ((out @ reads) * out).sum(-1)
    return (of_tokens[:, None, :] + of_queries[..., None] - 2 * out @ read.mT).clamp_min(0)


class _Sums:
    """What a KV head's queries say of it, batch by batch."""

    def __init__(self, heads: int) -> None:
        self._rows: list[list[Tensor]] = [[] for _ in range(heads)]
        self._weight: list[list[Tensor]] = [[] for _ in range(heads)]
        self._reads: list[Tensor | None] = [None] * heads
        self._open: dict[int, tuple[Tensor, Tensor]] = {}

    def add(self, head: int, rows: Tensor, weight: Tensor, reads: Tensor) -> None:
        """``rows`` (B, T, d); ``weight`` (B, T) for errors that cost ``reads`` (d, d)."""
        trace = reads.diagonal().sum()
        size = weight * trace  # so that queries that read more of a head count for more
        known = self._open.get(head)
        self._open[head] = (rows, size if known is None else known[1] + size)
        mean = reads / trace.clamp_min(torch.finfo(reads.dtype).tiny) * size.sum()
        before = self._reads[head]
        self._reads[head] = mean if before is None else before + mean

    def close(self) -> None:
        """The batch is over."""
        for head, (rows, weight) in self._open.items():
            self._rows[head].append(rows)
            self._weight[head].append(weight)
        self._open = {}

    def sample(self) -> SideSample:
        """Of all batches, float32; weights have mean 1, and ``reads`` is the mean over errors of its kind."""
        rows = torch.stack([torch.cat(parts) for parts in self._rows])
        weight = torch.stack([torch.cat(parts) for parts in self._weight])
        reads = torch.stack([part for part in self._reads if part is not None])
        tiny = torch.finfo(torch.float32).tiny
        weight = weight / weight.mean((1, 2), keepdim=True).clamp_min(tiny)
        reads = reads / reads.diagonal(dim1=1, dim2=2).sum(1)[:, None, None].clamp_min(tiny)
        return SideSample(rows.float(), weight.float(), reads.float())
