"""Text as blocks of tokens."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from gqasearch.calibration.masking import masked
from gqasearch.calibration.pieces import Text, TokenReader
from gqasearch.calibration.predictions import NO_TARGET, Targets
from gqasearch.errors import UserError
from gqasearch.models import Objective


@dataclass(frozen=True)
class TokenBlocks:
    """Blocks of one length. ``ids`` (N, T) int64; ``mask`` (N, T) bool, False on padding (at the end).

    ``source``: the text in words; ``bytes_per_token``: UTF-8 bytes of the text over its tokens; ``labels`` (N, T):
    what stands under the mask tokens in ``ids``, ``NO_TARGET`` elsewhere; of a model without a head, where every
    token counts, all of them; None where the next token is predicted.
    ``short_length``: blocks of at most so many tokens are never run beside longer ones (``Family.short_length``).
    """

    ids: Tensor
    mask: Tensor
    source: str
    bytes_per_token: float = float("nan")
    labels: Tensor | None = None
    short_length: int | None = None

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
        """(ids, mask) of ``blocks`` blocks at a time, each batch as long as its longest block.

        In order; where there is a ``short_length``, longer blocks first.
        """
        for rows, length in self._rows(blocks):
            yield self.ids[rows, :length], self.mask[rows, :length]

    def targets(self, blocks: int) -> Iterator[Targets]:
        """What each of these batches asks for."""
        for rows, length in self._rows(blocks):
            if self.labels is None:
                yield Targets.following(self.ids[rows, :length], self.mask[rows, :length])
            else:
                yield Targets.labelled(self.labels[rows, :length])

    def _rows(self, blocks: int) -> Iterator[tuple[Tensor, int]]:
        """The numbers of the blocks of every batch, and the tokens of the longest."""
        lengths, numbers = self.mask.sum(1), torch.arange(len(self.ids))
        is_short = lengths <= (self.short_length or 0)
        for alike in (numbers[~is_short], numbers[is_short]):
            for rows in alike.split(blocks) if len(alike) else ():
                yield rows, int(lengths[rows].max())


def make_blocks(
    documents: Iterable[Text],
    tokenizer: PreTrainedTokenizerBase,
    length: int,
    max_tokens: int,
    source: str,
    objective: Objective = "next-token",
    *,
    vocabulary: int | None = None,
    short_length: int | None = None,
    masked_blocks: float = 1.0,
) -> TokenBlocks:
    """Cut documents into blocks of ``length`` tokens until ``max_tokens`` are reached.

    Every block begins with the tokenizer's BOS token, if it has one; for an encoder it
    stands between the tokenizer's CLS and SEP, and has mask tokens (``masking``), or a share ``masked_blocks`` of all
    blocks do. Blocks are taken from the
    documents in turn, so that few tokens already cover many documents. The last block of a document
    is padded; a rest of under half a block is dropped unless the document has no other.

    No more is read and tokenised than is needed; ``bytes_per_token`` is of that. ``vocabulary``: how many tokens the
    model has embeddings of. Raises ``UserError`` when the whole text is shorter than one block, the tokenizer has no
    mask token that is needed, or the text has tokens that the model does not know.
    """
    before, after, body = block_frame(tokenizer, objective, length)
    reader = TokenReader(tokenizer)
    rows = _in_turn(_cut(reader.read(document), body) for document in documents)
    taken = [torch.tensor(before + row + after) for row in _until(rows, max_tokens, len(before) + len(after))]
    while reader.tokens < body and next(rows, None) is not None:
        pass  # so few were wanted that a short document had them: is there a block's worth in the text?
    if reader.tokens < body:
        raise too_short(source, reader.tokens, length)
    if not taken:
        raise UserError(f"the text ({source}) has no document of two tokens or more: there is nothing to predict")
    ids = torch.full((len(taken), length), _padding(tokenizer, vocabulary), dtype=torch.int64)
    mask = torch.zeros(len(taken), length, dtype=torch.bool)
    for index, row in enumerate(taken):
        ids[index, : len(row)] = row
        mask[index, : len(row)] = True
    check_known(ids[mask].numpy(), tokenizer, vocabulary)
    blocks = TokenBlocks(ids, mask, source, reader.bytes_per_token, short_length=short_length)
    if objective == "next-token":
        return blocks
    hidden = objective == "masked" or masked_blocks  # a model that is never shown a mask token needs none
    read = _masked(blocks, tokenizer, vocabulary, masked_blocks) if hidden else blocks
    if objective == "masked":
        return read
    return replace(read, labels=blocks.ids.masked_fill(~blocks.mask, NO_TARGET))


def shortage(blocks: TokenBlocks, wanted: int) -> str | None:
    """Words on a text that has fewer tokens than were wanted; None where it has enough."""
    if blocks.tokens >= wanted:
        return None
    text = blocks.source.partition(": ")[0]  # without the documents' names
    return f"the text ({text}) has {blocks.tokens} tokens, not the {wanted} asked for; all of it is used"


def check_known(ids: NDArray[Any], tokenizer: PreTrainedTokenizerBase, vocabulary: int | None) -> None:
    """Raise ``UserError`` that names a token of these which a model with embeddings of ``vocabulary`` does not know."""
    if vocabulary is not None and ids.size and (most := int(ids.max())) >= vocabulary:
        token = tokenizer.convert_ids_to_tokens(most)
        raise UserError(
            f"the text has the token {token!r}, id {most}, and the model has embeddings of {vocabulary} tokens, ids 0 "
            f"to {vocabulary - 1}: the tokenizer had tokens added that the model was not resized for"
        )


def _padding(tokenizer: PreTrainedTokenizerBase, vocabulary: int | None) -> int:
    """What stands where nothing counts: the tokenizer's own, unless the model has no embedding of it."""
    given = tokenizer.pad_token_id
    return 0 if given is None or (vocabulary is not None and given >= vocabulary) else int(given)


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


def _masked(
    blocks: TokenBlocks, tokenizer: PreTrainedTokenizerBase, vocabulary: int | None, share: float
) -> TokenBlocks:
    if tokenizer.mask_token_id is None:
        raise UserError("this model predicts masked tokens, and its tokenizer has no mask token")
    check_known(np.array([tokenizer.mask_token_id]), tokenizer, vocabulary)
    special = tokenizer.all_special_ids
    ids, labels = masked(blocks.ids, blocks.mask, int(tokenizer.mask_token_id), special, share)
    if share == 1 and bool((labels == NO_TARGET).all()):
        raise UserError(f"the text ({blocks.source}) has special tokens alone: the tokenizer does not know its words")
    return replace(blocks, ids=ids, labels=labels)


def _cut(tokens: Iterable[list[int]], body: int) -> Iterator[list[int]]:
    """A document in rows of ``body`` tokens; the last may be shorter."""
    rest, is_first = list[int](), True
    for more in tokens:
        rest += more
        full = len(rest) // body * body
        for start in range(0, full, body):
            yield rest[start : start + body]
        is_first, rest = is_first and not full, rest[full:]
    if rest and (is_first or len(rest) >= body // 2):
        yield rest


def _in_turn(documents: Iterable[Iterator[list[int]]]) -> Iterator[list[int]]:
    """The first row of every document, the second, and so on; documents are opened as they are come to."""
    waiting: list[Iterator[list[int]]] = []
    turn: Iterable[Iterator[list[int]]] = documents
    while True:
        for rows in turn:
            if (row := next(rows, None)) is not None:
                waiting.append(rows)
                if len(row) > 1:
                    yield row
        if not waiting:
            return
        turn, waiting = waiting, []


def _until(rows: Iterator[list[int]], max_tokens: int, framed: int) -> Iterator[list[int]]:
    """Rows until they hold ``max_tokens`` tokens, each with ``framed`` more."""
    taken = 0
    while taken < max_tokens and (row := next(rows, None)) is not None:
        taken += len(row) + framed
        yield row
