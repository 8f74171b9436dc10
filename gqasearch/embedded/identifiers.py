"""A small multiple-choice task without a network: which identifier comes next in code that was never trained on?

The right one was named in the lines before, and so were the wrong ones: what is asked is to look back, which is what
shared keys and values put at risk. Made from the evaluation set of the embedded text, so a Python of another version
has somewhat other items. Nothing but the standard library is needed here: lm-eval runs it in an environment of its own.
"""

from __future__ import annotations

import io
import keyword
import tokenize
from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass

from gqasearch.embedded.library_text import Document, held_out_documents

NAME = "gqasearch-identifiers"
ITEMS = 200
CHOICES = 4
CONTEXT = 420  # characters, so that the embedded model's context of 256 tokens holds them
SHORTEST = 4  # characters of a name that is asked for or offered


@dataclass(frozen=True)
class ChoiceItem:
    """``context`` is followed by one of ``choices``: by the one at ``answer``."""

    context: str
    choices: tuple[str, ...]
    answer: int


@dataclass(frozen=True)
class _Name:
    text: str
    start: int  # in characters from the beginning of the document


def identifier_items(count: int = ITEMS, documents: Sequence[Document] | None = None) -> list[ChoiceItem]:
    """``count`` items, or as many as there are, evenly from all documents; always the same ones.

    ``documents``: Python source; the embedded evaluation set by default. Every place of the answer is as frequent.
    """
    found = held_out_documents("evaluation") if documents is None else documents
    possible = [item for document in found for item in _items(document.text)]
    count = min(count, len(possible))
    chosen = [possible[index * len(possible) // count] for index in range(count)]
    return [_placed(context, right, wrong, index) for index, (context, right, wrong) in enumerate(chosen)]


def _placed(context: str, right: str, wrong: list[str], index: int) -> ChoiceItem:
    answer = index % CHOICES
    return ChoiceItem(context, (*wrong[:answer], right, *wrong[answer:]), answer)


def _items(source: str) -> list[tuple[str, str, list[str]]]:
    """(context, right, wrong) at every name that its context names already, with enough others to choose from."""
    names, lines = _names(source), _line_starts(source)
    places = [name.start for name in names]
    found = []
    for index, name in enumerate(names):
        begin = lines[bisect_left(lines, name.start - CONTEXT)]
        context = source[begin : name.start]
        before = [other.text for other in names[bisect_left(places, begin) : index]]
        # The latest first; the last name itself rarely follows at once and would be no choice at all.
        others = [text for text in dict.fromkeys(reversed(before)) if text != name.text]
        line = context.rpartition("\n")[2]
        if name.text in before and before[-1] != name.text and len(others) >= CHOICES - 1 and line.strip():
            found.append((context, name.text, others[: CHOICES - 1]))
    return found


def _names(source: str) -> list[_Name]:
    """Identifiers of code, not of comments or strings, that are no keywords and not too short."""
    starts = _line_starts(source)
    return [
        _Name(token.string, starts[token.start[0] - 1] + token.start[1])
        for token in tokenize.generate_tokens(io.StringIO(source).readline)
        if token.type == tokenize.NAME and len(token.string) >= SHORTEST and not keyword.iskeyword(token.string)
    ]


def _line_starts(source: str) -> list[int]:
    starts = [0]
    for line in io.StringIO(source):  # splits as tokenize does, unlike splitlines
        starts.append(starts[-1] + len(line))
    return starts
