"""Three texts for healing that never overlap: to train on, to stop early by, to report on.

Of one file the first 65% are trained on, the next 5% validate, and the rest is what ``evaluate`` and ``search`` report
on. Files are read a piece at a time.
"""

from __future__ import annotations

import filecmp
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Generic, TypeVar

from gqasearch.calibration import FilePart, Text, stream_documents, stream_whole
from gqasearch.calibration.text import SHARES, open_text, owner, records, text_files, text_path
from gqasearch.embedded import SPLITS, Document, held_out_documents, training_documents
from gqasearch.errors import UserError

VALIDATION = 0.05  # share of the whole text
PIECE = 2**16  # characters that are read at a time

Reader = Callable[[], Iterable[Document]]
T = TypeVar("T", bound=Text)


@dataclass(frozen=True)
class TextPart(Generic[T]):
    """One part of a text, read anew every time it is iterated over; ``source``: the part in words."""

    source: str
    read: Callable[[], Iterable[T]]

    def __iter__(self) -> Iterator[T]:
        return iter(self.read())


@dataclass(frozen=True)
class HealingTexts:
    """What is trained on, what stops the training early, what results are reported on."""

    trained: TextPart[Document]
    validation: TextPart[Document]
    reported: TextPart[Document | FilePart]


def healing_texts(text: str, evaluation_text: str | None = None, segment: int | None = None) -> HealingTexts:
    """The parts of ``text``: ``embedded``, or a .txt or .jsonl file, or a folder of them.

    ``reported`` is what ``stream_documents`` gives for evaluation with this ``segment``, or ``evaluation_text`` whole;
    then all of ``text`` is trained on but for its last 5%, which validate. Shares are of characters, of a .jsonl of
    lines, of a folder of files. Of ``embedded``, the search set validates.

    Reads a file once, to count. Raises ``UserError`` for a text that is missing, empty, not UTF-8 or too short for its
    parts, a .jsonl line without ``text``, and texts that share files or copies of one; for files of a folder, when
    they are reached.
    """
    if evaluation_text is None:
        reported = TextPart(f"{text}, evaluation part", partial(stream_documents, text, "evaluation", segment))
    else:
        _refuse_shared(text, evaluation_text)
        reported = TextPart(f"{evaluation_text}, whole", partial(stream_whole, evaluation_text))
    if text == "embedded":
        trained: Reader = training_documents
        validation: Reader = partial(held_out_documents, "search")
        words = "search part"
    else:
        trained, validation = _cut(text, evaluation_text is None)
        words = "validation part"
    return HealingTexts(TextPart(f"{text}, training part", trained), TextPart(f"{text}, {words}", validation), reported)


def _refuse_shared(text: str, evaluation_text: str) -> None:
    ours, other = (Path(given).expanduser().resolve() for given in (text, evaluation_text))
    if ours == other or ours in other.parents or other in ours.parents:
        raise UserError(
            f"text {text} and evaluation text {evaluation_text} share files: results must be reported on text that "
            "was not trained on. Leave the evaluation text out to hold a part of the text back"
        )
    sizes: dict[int, list[Path]] = {}
    for file in _files(ours):
        sizes.setdefault(file.stat().st_size, []).append(file)
    for theirs in _files(other):
        size = theirs.stat().st_size
        same = next((own for own in sizes.get(size, []) if size and filecmp.cmp(own, theirs, shallow=False)), None)
        if same is not None:
            raise UserError(
                f"{theirs}, to report on, is a copy of {same}, to train on: results must be reported on text that was "
                "not trained on"
            )


def _files(path: Path) -> list[Path]:
    return text_files(path) if path.is_dir() else [path] if path.is_file() else []


def _cut(text: str, keep_back: bool) -> tuple[Reader, Reader]:
    """What to train on and what to validate by; ``keep_back``: the evaluation part is neither's."""
    path = text_path(text)
    trained, validation = (_cut_folder if path.is_dir() else _cut_file)(path, keep_back)
    if not all(any(document.text.strip() for document in part()) for part in (trained, validation)):
        raise UserError(f"text {text} is too short: nothing is left for one of training, validation, reporting")
    return trained, validation


def _cut_folder(folder: Path, keep_back: bool) -> tuple[Reader, Reader]:
    files = text_files(folder)
    needed = len(SPLITS) if keep_back else 2
    if len(files) < needed:
        raise UserError(f"text {folder}: needs at least {needed} .txt or .jsonl files, has {len(files)}")
    last = SPLITS.index("evaluation")
    ours = [file for index, file in enumerate(files) if not keep_back or owner(index, len(files)) != last]
    cut = len(ours) - _validation_count(len(files))
    return partial(_whole_files, folder, ours[:cut]), partial(_whole_files, folder, ours[cut:])


def _cut_file(path: Path, keep_back: bool) -> tuple[Reader, Reader]:
    count = sum(1 for _ in records(path)) if path.suffix == ".jsonl" else 0
    read = _read_lines
    if count <= 1:  # load_documents cuts a single record as it cuts a .txt
        read, count = _read_characters, _count_characters(path)
    stop = int(SHARES["evaluation"][0] * count) if keep_back else count
    cut = max(0, stop - _validation_count(count))
    return partial(read, path, path.name, 0, cut), partial(read, path, path.name, cut, stop)


def _validation_count(count: int) -> int:
    return max(1, int(VALIDATION * count))


def _whole_files(folder: Path, files: list[Path]) -> Iterator[Document]:
    for file in files:
        read = _read_lines if file.suffix == ".jsonl" else _read_characters
        yield from read(file, file.relative_to(folder).as_posix(), 0, None)


def _read_lines(path: Path, name: str, start: int, stop: int | None) -> Iterator[Document]:
    """The texts of these lines of a .jsonl, but for blank ones."""
    return (Document(name, text) for text in islice(records(path), start, stop) if text.strip())


def _read_characters(path: Path, name: str, start: int, stop: int | None) -> Iterator[Document]:
    """These characters of a file's text, as pieces that end with a line where one ends in them."""
    rest, continues = "", False
    for chunk in filter(None, _chunks(path, start, stop)):
        rest += chunk
        end = rest.rfind("\n") + 1 or len(rest)
        yield Document(name, rest[:end], continues)
        rest, continues = rest[end:], True
    if rest:
        yield Document(name, rest, continues)


def _count_characters(path: Path) -> int:
    count, blank = 0, True
    for chunk in _contents(path):
        count, blank = count + len(chunk), blank and not chunk.strip()
    if blank:
        raise UserError(f"text {path} is empty")
    return count


def _chunks(path: Path, start: int, stop: int | None) -> Iterator[str]:
    place = 0
    for chunk in _contents(path):
        yield chunk[max(0, start - place) : None if stop is None else stop - place]
        place += len(chunk)
        if stop is not None and place >= stop:
            return


def _contents(path: Path) -> Iterator[str]:
    """A file's text, ``PIECE`` characters at a time; of a .jsonl, a record at a time."""
    if path.suffix == ".jsonl":
        yield from records(path)
        return
    with open_text(path) as file:
        while chunk := file.read(PIECE):
            yield chunk
