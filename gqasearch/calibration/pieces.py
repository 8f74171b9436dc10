"""The tokens of a long text, a piece at a time: the same as of the whole, for the cost of what is read.

A tokenizer may change its mind about the end of a piece when it sees what follows, and treats a beginning as that of a
text (SentencePiece puts a space there). So every piece begins ``OVERLAP`` characters before the last one's end, and the
two are joined within tokens on which both agree. For BPE that is exact, whatever its rules for splitting words: tokens
in a row are what it makes of their text if every two neighbours are, and both sides of a join share a neighbour. Others
look at a word at a time, or at a window much smaller than what has to agree. Where nothing agrees (one word of a
million characters may be one unknown token) the piece is read on until something does, at worst to the end.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import takewhile
from typing import Protocol

from transformers import PreTrainedTokenizerBase

WHOLE = 2**18  # characters; texts of at most so many are tokenised at once
PIECE = 2**15
OVERLAP = 2**10
AGREED = 16  # tokens in a row that two pieces must share


class Text(Protocol):
    """A document, however long."""

    @property
    def name(self) -> str:
        """What it is reported under."""

    def chunks(self, size: int) -> Iterator[str]:
        """The text, at most ``size`` characters at a time."""


@dataclass
class TokenReader:
    """Tokens of texts, as they are asked for. ``tokens`` and ``size`` (UTF-8 bytes): of all that was tokenised."""

    tokenizer: PreTrainedTokenizerBase
    tokens: int = 0
    size: int = 0

    @property
    def bytes_per_token(self) -> float:
        """UTF-8 bytes over tokens of what was tokenised; NaN before that."""
        return self.size / self.tokens if self.tokens else float("nan")

    def read(self, text: Text) -> Iterator[list[int]]:
        """The ids of a text, without BOS and the like, in lists that follow each other; no more is read than needed."""
        parts = _parts(text.chunks(PIECE))
        piece = next(parts)
        ids, told = self._encode(piece), 0  # of ``ids``, ``told`` have been given
        while more := _next(parts, PIECE):
            end = piece[-OVERLAP:]
            longer = self._encode(end + more)
            join = _join(ids, self._ids(end), longer)
            while join is None and (further := _next(parts, len(piece))):
                piece, more = piece + more, further
                ids, end = self._encode(piece), piece[-OVERLAP:]
                longer = self._encode(end + more)
                join = _join(ids, self._ids(end), longer)
            if join is None:
                ids = self._encode(piece + more)
                break
            yield ids[told : join[0]]
            piece, ids, told = end + more, longer, join[1]
        yield ids[told:]

    def _encode(self, text: str) -> list[int]:
        ids = self._ids(text)
        self.tokens += len(ids)
        self.size += len(text.encode())
        return ids

    def _ids(self, text: str) -> list[int]:
        # verbose=False: the warning that the text is longer than the context is the reason we cut it
        return list(self.tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"])


def _join(before: Sequence[int], end: Sequence[int], after: Sequence[int]) -> tuple[int, int] | None:
    """How many tokens of ``before`` to take, and from which of ``after`` to go on; None where they do not agree.

    ``end``: the tokens of what both have in common, the end of one and the beginning of the other.
    """
    first = len(end) - _agreeing(reversed(before), reversed(end))
    last = _agreeing(end, after)
    if last - first < AGREED:
        return None
    middle = (first + last) // 2
    return len(before) - len(end) + middle, middle


def _agreeing(one: Sequence[int] | Iterator[int], other: Sequence[int] | Iterator[int]) -> int:
    """How many are the same from the beginning on."""
    return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(one, other, strict=False)))


def _parts(chunks: Iterator[str]) -> Iterator[str]:
    """A short text whole, a long one in its chunks."""
    start: list[str] = []
    size = 0
    for chunk in chunks:
        start.append(chunk)
        if (size := size + len(chunk)) > WHOLE:
            yield from start
            yield from chunks
            return
    yield "".join(start)


def _next(parts: Iterator[str], size: int) -> str:
    """Parts of at least ``size`` characters together, or all that is left."""
    got: list[str] = []
    while sum(map(len, got)) < size and (part := next(parts, "")):
        got.append(part)
    return "".join(got)
