"""Text as blocks of tokens."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from gqasearch.calibration.masking import masked
from gqasearch.calibration.targets import NO_TARGET, Targets
from gqasearch.embedded import Document
from gqasearch.errors import UserError
from gqasearch.models import Objective


@dataclass(frozen=True)
class TokenBlocks:
    """Blocks of one length. ``ids`` (N, T) int64; ``mask`` (N, T) bool, False on padding (at the end).

    ``source``: the text in words; ``bytes_per_token``: UTF-8 bytes of the text over its tokens; ``labels`` (N, T):
    what stands under the mask tokens in ``ids``, ``NO_TARGET`` elsewhere; None where the next token is predicted.
    """

    ids: Tensor
    mask: Tensor
    source: str
    bytes_per_token: float = float("nan")
    labels: Tensor | None = None

    @property
    def tokens(self) -> int:
        """Tokens that are no padding."""
        return int(self.mask.sum())

    @property
    def fingerprint(self) -> str:
        """``sha256:...`` of ids and mask, and of labels if there are any."""
        digest = hashlib.sha256()
        for tensor in (self.ids, self.mask) if self.labels is None else (self.ids, self.mask, self.labels):
            digest.update(f"{tuple(tensor.shape)}|".encode())
            digest.update(tensor.contiguous().numpy().tobytes())
        return f"sha256:{digest.hexdigest()}"

    def first(self, max_tokens: int) -> TokenBlocks:
        """The leading blocks that hold ``max_tokens`` tokens, or all of them."""
        before = self.mask.sum(1).cumsum(0) - self.mask.sum(1)
        count = int((before < max_tokens).sum())
        labels = None if self.labels is None else self.labels[:count]
        return replace(self, ids=self.ids[:count], mask=self.mask[:count], labels=labels)

    @property
    def text(self) -> Tensor:
        """The tokens with nothing masked, (N, T)."""
        return self.ids if self.labels is None else torch.where(self.labels == NO_TARGET, self.ids, self.labels)

    def last(self, max_tokens: int) -> TokenBlocks:
        """The final blocks that hold ``max_tokens`` tokens, or all of them."""
        after = self.mask.sum(1).flip(0).cumsum(0).flip(0) - self.mask.sum(1)
        count = int((after < max_tokens).sum())
        start = len(self.ids) - count
        labels = None if self.labels is None else self.labels[start:]
        return replace(self, ids=self.ids[start:], mask=self.mask[start:], labels=labels)

    def batches(self, blocks: int) -> Iterator[tuple[Tensor, Tensor]]:
        """(ids, mask) of ``blocks`` blocks at a time, in order."""
        yield from zip(self.ids.split(blocks), self.mask.split(blocks), strict=True)

    def targets(self, blocks: int) -> Iterator[Targets]:
        """What each of these batches asks for."""
        if self.labels is None:
            yield from (Targets.following(ids, mask) for ids, mask in self.batches(blocks))
        else:
            yield from map(Targets.labelled, self.labels.split(blocks))


def make_blocks(
    documents: Sequence[Document],
    tokenizer: PreTrainedTokenizerBase,
    length: int,
    max_tokens: int,
    source: str,
    objective: Objective = "next-token",
) -> TokenBlocks:
    """Cut documents into blocks of ``length`` tokens until ``max_tokens`` are reached.

    Every block begins with the tokenizer's BOS token, if it has one; for a model that predicts masked tokens it
    stands between the tokenizer's CLS and SEP, and has mask tokens (``masking``). Blocks are taken from the
    documents in turn, so that few tokens already cover many documents. The last block of a document
    is padded; a rest of under half a block is dropped unless the document has no other. Raises
    ``UserError`` when the whole text is shorter than one block, or the tokenizer has no mask token that is needed.
    """
    before, after, body = block_frame(tokenizer, objective, length)
    encoded = [_encode(tokenizer, document.text) for document in documents]
    count, size = sum(map(len, encoded)), sum(len(document.text.encode()) for document in documents)
    if count < body:
        raise too_short(source, count, length)
    rows = [before + row + after for row in _in_turn([_cut(tokens, body) for tokens in encoded])]
    taken = list(_until(rows, max_tokens))
    pad = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else 0
    ids = torch.full((len(taken), length), int(pad), dtype=torch.int64)
    mask = torch.zeros(len(taken), length, dtype=torch.bool)
    for index, row in enumerate(taken):
        ids[index, : len(row)] = torch.tensor(row)
        mask[index, : len(row)] = True
    blocks = TokenBlocks(ids, mask, source, size / count)
    return blocks if objective == "next-token" else _masked(blocks, tokenizer)


def block_frame(
    tokenizer: PreTrainedTokenizerBase, objective: Objective, length: int
) -> tuple[list[int], list[int], int]:
    """What every block begins and ends with, and the number of tokens between, of a block of ``length``.

    Raises ``UserError`` when there is no room for two.
    """
    before, after = _token(tokenizer.bos_token_id), list[int]()
    if objective != "next-token":
        before, after = _token(tokenizer.cls_token_id), _token(tokenizer.sep_token_id)
    body = length - len(before) - len(after)
    if body < 2:
        raise UserError(f"--block-length must be at least {length - body + 2}, got {length}")
    return before, after, body


def too_short(source: str, tokens: int, length: int) -> UserError:
    """The error for a text that does not fill one block."""
    return UserError(
        f"the text ({source}) has {tokens} tokens, fewer than one block of {length}; give more text or a "
        "smaller --block-length"
    )


def _token(given: int | None) -> list[int]:
    return [] if given is None else [int(given)]


def _masked(blocks: TokenBlocks, tokenizer: PreTrainedTokenizerBase) -> TokenBlocks:
    if tokenizer.mask_token_id is None:
        raise UserError("this model predicts masked tokens, and its tokenizer has no mask token")
    ids, labels = masked(blocks.ids, blocks.mask, int(tokenizer.mask_token_id), tokenizer.all_special_ids)
    if bool((labels == NO_TARGET).all()):
        raise UserError(f"the text ({blocks.source}) has special tokens alone: the tokenizer does not know its words")
    return replace(blocks, ids=ids, labels=labels)


def _encode(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    # verbose=False: the warning that the text is longer than the context is the reason we cut it
    return list(tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"])


def _cut(tokens: list[int], body: int) -> list[list[int]]:
    rows = [tokens[start : start + body] for start in range(0, len(tokens), body)]
    return rows[:-1] if len(rows) > 1 and len(rows[-1]) < body // 2 else rows


def _in_turn(documents: list[list[list[int]]]) -> Iterator[list[int]]:
    for turn in range(max(map(len, documents), default=0)):
        yield from (rows[turn] for rows in documents if turn < len(rows) and len(rows[turn]) > 1)


def _until(rows: list[list[int]], max_tokens: int) -> Iterator[list[int]]:
    taken = 0
    for row in rows:
        if taken >= max_tokens:
            return
        taken += len(row)
        yield row
