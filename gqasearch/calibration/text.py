"""Text in: the embedded sets, ``.txt`` and ``.jsonl`` files, folders of them."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import TextIO

from gqasearch.embedded import SPLITS, Document, Split, held_out_documents
from gqasearch.errors import UserError

LONE_SURROGATE = re.compile("[\ud800-\udfff]")
# A file given by the user serves all three purposes in parts that never overlap.
SHARES: dict[Split, tuple[float, float]] = {"calibration": (0.0, 0.4), "search": (0.4, 0.7), "evaluation": (0.7, 1.0)}


def load_documents(text: str, split: Split) -> list[Document]:
    """Documents of ``text`` for one purpose: ``embedded``, or a .txt or .jsonl file, or a folder of them.

    Of one file the first 40% of its characters (lines, for .jsonl) serve calibration, the next 30%
    search, the rest evaluation; of a folder, the first third of the files in name order, and so on. Raises
    ``UserError`` for a missing or empty file, or a .jsonl line without ``text``.
    """
    if text == "embedded":
        return held_out_documents(split)
    path = text_path(text)
    if path.is_dir():
        return _share_of_folder(path, split)
    pieces = _read(path)
    share = _slice(pieces, split) if len(pieces) > 1 else _cut(pieces[0], split)
    return _refuse_empty([Document(f"{path.name}:{split}", piece) for piece in share], path)


def text_path(text: str, first: str = "'embedded', FILE.txt") -> Path:
    """The file or folder that ``text`` names; raises ``UserError`` where there is none. ``first``: what else may be."""
    path = Path(text).expanduser()
    if not path.is_dir() and not path.is_file():
        raise UserError(f"text {text}: no such file or folder. Give {first}, FILE.jsonl or a folder")
    return path


def load_whole(text: str) -> list[Document]:
    """All documents of a .txt or .jsonl file, or of a folder of them; errors as in ``load_documents``."""
    path = text_path(text, "FILE.txt")
    files = text_files(path) if path.is_dir() else [path]
    return _refuse_empty([Document(file.name, piece) for file in files for piece in _read(file)], path)


def text_files(folder: Path) -> list[Path]:
    """The .txt and .jsonl files of a folder and those below it, in name order."""
    return sorted(path for path in folder.rglob("*") if path.suffix in (".txt", ".jsonl") and path.is_file())


@contextmanager
def open_text(path: Path) -> Iterator[TextIO]:
    """A .txt or .jsonl to read; raises ``UserError`` for any other, and when what is read turns out not to be UTF-8."""
    if path.suffix not in (".txt", ".jsonl"):
        raise UserError(f"text {path}: expected a .txt or .jsonl file, got {path.suffix or 'no suffix'!r}")
    try:
        with path.open(encoding="utf-8-sig") as file:  # editors on Windows begin a file with a byte-order mark
            yield file
    except UnicodeDecodeError as error:
        raise UserError(f"text {path} is not UTF-8: {error}") from None
    except OSError as error:
        raise UserError(f"cannot read text {path}: {error.strerror or error}") from None


def records(path: Path, start: int = 0) -> Iterator[str]:
    """The text of every line of a .jsonl that is not blank, one line at a time, from the ``start``-th of them on.

    Raises ``UserError`` at the first line without ``text``; the lines before ``start`` may be anything.
    """
    with open_text(path) as file:
        lines = ((number, line) for number, line in enumerate(file, 1) if not line.isspace())
        for number, line in islice(lines, start, None):
            yield _text_field(path, number, line)


def _read(path: Path) -> list[str]:
    """One string of a .txt, one per line of a .jsonl."""
    if path.suffix == ".jsonl":
        pieces = list(records(path))
    else:
        with open_text(path) as file:
            pieces = [file.read()]
    if not pieces or (path.suffix == ".txt" and not pieces[0].strip()):
        raise UserError(f"text {path} is empty")
    return pieces


def _text_field(path: Path, number: int, line: str) -> str:
    try:
        record = json.loads(line)
    except (ValueError, RecursionError) as error:  # the latter, and numbers of 5,000 digits, are valid and too much
        raise UserError(f"text {path}, line {number}: not valid JSON: {error}") from None
    text = record.get("text") if isinstance(record, dict) else None
    if not isinstance(text, str):
        raise UserError(f"text {path}, line {number}: expected an object with a string field 'text'")
    if (lone := LONE_SURROGATE.search(text)) is not None:
        raise UserError(
            f"text {path}, line {number}: {lone[0]!r} at character {lone.start()} of 'text' is half of a surrogate "
            "pair, which stands for no character: repair the text (\\ufffd is what takes the place of such)"
        )
    return text


def _slice(pieces: list[str], split: Split) -> list[str]:
    start, stop = SHARES[split]
    return pieces[int(start * len(pieces)) : int(stop * len(pieces))]


def _cut(piece: str, split: Split) -> list[str]:
    start, stop = SHARES[split]
    return [piece[int(start * len(piece)) : int(stop * len(piece))]]


def _share_of_folder(folder: Path, split: Split) -> list[Document]:
    files = text_files(folder)
    if len(files) < len(SPLITS):
        raise UserError(f"text {folder}: needs at least {len(SPLITS)} .txt or .jsonl files, has {len(files)}")
    order = SPLITS.index(split)
    mine = [file for index, file in enumerate(files) if owner(index, len(files)) == order]
    pieces = [Document(file.relative_to(folder).as_posix(), piece) for file in mine for piece in _read(file)]
    return _refuse_empty(pieces, folder)


def owner(index: int, count: int) -> int:
    """Which of ``SPLITS`` file ``index`` of ``count`` serves; of three files or more, each gets at least one."""
    return min(index * len(SPLITS) // count, len(SPLITS) - 1)


def _refuse_empty(documents: list[Document], path: Path) -> list[Document]:
    kept = [document for document in documents if document.text.strip()]
    if not kept:
        raise UserError(f"text {path} is too short: nothing is left for one of calibration, search, evaluation")
    return kept
