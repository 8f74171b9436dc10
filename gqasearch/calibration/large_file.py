"""Large .txt and .jsonl files: the same parts of them as of small ones, read as far as they are needed."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from itertools import chain, islice, pairwise
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from gqasearch.calibration.text import SHARES, load_documents, load_whole, open_text, records
from gqasearch.embedded import Document, Split
from gqasearch.errors import UserError

LARGE = 2**26  # bytes; smaller files are read whole
CHUNK = 2**20  # bytes that are counted at a time
SEGMENTS = 256  # each of a large file holds it open
BYTE_ORDER_MARK = b"\xef\xbb\xbf"


@dataclass(frozen=True)
class FilePart:
    """``characters`` of a text file from byte ``start`` on; a document that is never in memory whole."""

    name: str
    path: Path
    start: int
    characters: int

    def chunks(self, size: int) -> Iterator[str]:
        """The text, ``size`` characters at a time."""
        left = self.characters
        with open_text(self.path) as file:
            file.seek(self.start)
            while left and (chunk := file.read(min(size, left))):
                left -= len(chunk)
                yield chunk


def stream_documents(text: str, split: Split, segment: int | None = None) -> Iterable[Document | FilePart]:
    """What ``load_documents`` gives; of a large file no more is read than is asked for.

    It is counted first, a pass over its bytes; what is not read is not checked. ``segment``: where the part is one
    document, as of a .txt, it is given as up to ``SEGMENTS`` of at least so many characters. Blocks are taken from
    documents in turn, and a few thousand tokens from the beginning of a file are of one subject.
    """
    path = Path(text).expanduser()
    if not _is_large(path):
        return _segmented(load_documents(text, split), segment)
    start, stop = SHARES[split]
    name = f"{path.name}:{split}"
    if path.suffix == ".jsonl" and (count := _lines(path, *_version(path))) > 1:
        return _records(path, name, int(start * count), int(stop * count))
    if path.suffix == ".jsonl":  # one record is cut as a .txt is
        return _segmented(load_documents(text, split), segment)
    places = _places(path, *_version(path))
    count = places.count
    first, last = int(start * count), int(stop * count)
    whole = _not_blank(FilePart(name, path, places.byte_of(first), last - first))
    if segment is None:
        return whole
    ends = (first + end for end in _ends(last - first, segment))
    return (FilePart(name, path, places.byte_of(begin), end - begin) for begin, end in pairwise(ends))


def _segmented(documents: list[Document], segment: int | None) -> list[Document]:
    """One document as its segments; more as they are."""
    if segment is None or len(documents) > 1:
        return documents
    (whole,) = documents
    ends = pairwise(_ends(len(whole.text), segment))
    return [Document(whole.name, whole.text[begin:end]) for begin, end in ends]


def _ends(characters: int, segment: int) -> Iterator[int]:
    """Where segments of about one length begin, and where the last ends."""
    count = max(1, min(SEGMENTS, characters // segment))
    return (number * characters // count for number in range(count + 1))


def stream_whole(text: str) -> Iterable[Document | FilePart]:
    """What ``load_whole`` gives; of a large file no more is read than is asked for."""
    path = Path(text).expanduser()
    if not _is_large(path):
        return load_whole(text)
    if path.suffix == ".jsonl":
        return _records(path, path.name, 0, None)
    return _not_blank(FilePart(path.name, path, 0, path.stat().st_size))


def _is_large(path: Path) -> bool:
    return path.suffix in (".txt", ".jsonl") and path.is_file() and path.stat().st_size > LARGE


def _version(path: Path) -> tuple[int, int]:
    state = path.stat()
    return state.st_size, state.st_mtime_ns


def _records(path: Path, name: str, start: int, stop: int | None) -> Iterator[Document]:
    texts = islice(records(path, start), None if stop is None else stop - start)
    found = (Document(name, text) for text in texts if text.strip())
    if (first := next(found, None)) is None:
        raise _nothing_in(path)
    return chain([first], found)


def _not_blank(part: FilePart) -> list[FilePart]:
    if not any(chunk.strip() for chunk in part.chunks(CHUNK)):
        raise _nothing_in(part.path)
    return [part]


def _nothing_in(path: Path) -> UserError:
    return UserError(f"text {path} is too short: nothing is left for one of calibration, search, evaluation")


@lru_cache(maxsize=4)
def _lines(path: Path, _size: int, _changed: int) -> int:
    """Lines that are not blank."""
    with open_text(path) as file:
        return sum(1 for line in file if not line.isspace())


@dataclass(frozen=True)
class _Places:
    """Where the characters of a .txt stand: ``before`` (n + 1,): how many there are before every ``CHUNK`` bytes."""

    path: Path
    before: NDArray[np.int64]

    @property
    def count(self) -> int:
        return int(self.before[-1])

    def byte_of(self, character: int) -> int:
        """The byte at which a character begins."""
        chunk = int(np.searchsorted(self.before, character, side="right")) - 1
        if chunk >= len(self.before) - 1:
            return self.path.stat().st_size
        with self.path.open("rb") as file:
            file.seek(max(0, chunk * CHUNK - 1))
            last = file.read(1) if chunk else b""
            starts = _starts(file.read(CHUNK), last, is_first=not chunk)
        return chunk * CHUNK + int(np.flatnonzero(starts)[character - int(self.before[chunk])])


@lru_cache(maxsize=4)
def _places(path: Path, _size: int, _changed: int) -> _Places:
    counts, last = [0], b""
    with path.open("rb") as file:
        while raw := file.read(CHUNK):
            counts.append(int(_starts(raw, last, is_first=len(counts) == 1).sum()))
            last = raw[-1:]
    return _Places(path, np.cumsum(counts))


def _starts(raw: bytes, last: bytes, *, is_first: bool) -> NDArray[np.bool_]:
    """At which bytes (n,) of UTF-8 a character begins, as Python reads text: CR LF is one, a byte-order mark none.

    ``last``: the byte before.
    """
    values = np.frombuffer(raw, dtype=np.uint8)
    starts: NDArray[np.bool_] = (values & 0xC0) != 0x80
    before = np.concatenate([np.frombuffer(last or b"\0", dtype=np.uint8), values[:-1]])
    starts &= ~((values == 10) & (before == 13))
    if is_first and raw.startswith(BYTE_ORDER_MARK):
        starts[:1] = False
    return starts
