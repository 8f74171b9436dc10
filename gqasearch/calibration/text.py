"""Text in: the embedded sets, ``.txt`` and ``.jsonl`` files, folders of them."""

from __future__ import annotations

import json
from pathlib import Path

from gqasearch.embedded import SPLITS, Document, Split, held_out_documents
from gqasearch.errors import UserError

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
    path = Path(text).expanduser()
    if path.is_dir():
        return _share_of_folder(path, split)
    if not path.is_file():
        raise UserError(f"text {text}: no such file or folder. Give 'embedded', FILE.txt, FILE.jsonl or a folder")
    pieces = _read(path)
    share = _slice(pieces, split) if len(pieces) > 1 else _cut(pieces[0], split)
    return _refuse_empty([Document(f"{path.name}:{split}", piece) for piece in share], path)


def load_whole(text: str) -> list[Document]:
    """All documents of a .txt or .jsonl file, or of a folder of them; errors as in ``load_documents``."""
    path = Path(text).expanduser()
    if path.is_dir():
        files = _text_files(path)
    elif path.is_file():
        files = [path]
    else:
        raise UserError(f"text {text}: no such file or folder. Give FILE.txt, FILE.jsonl or a folder")
    return _refuse_empty([Document(file.name, piece) for file in files for piece in _read(file)], path)


def _text_files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.suffix in (".txt", ".jsonl") and path.is_file())


def _read(path: Path) -> list[str]:
    """One string of a .txt, one per line of a .jsonl."""
    if path.suffix not in (".txt", ".jsonl"):
        raise UserError(f"text {path}: expected a .txt or .jsonl file, got {path.suffix or 'no suffix'!r}")
    try:
        content = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise UserError(f"text {path} is not UTF-8: {error}") from None
    if not content.strip():
        raise UserError(f"text {path} is empty")
    if path.suffix == ".txt":
        return [content]
    return [_text_field(path, number, line) for number, line in enumerate(content.splitlines(), 1) if line.strip()]


def _text_field(path: Path, number: int, line: str) -> str:
    try:
        record = json.loads(line)
    except json.JSONDecodeError as error:
        raise UserError(f"text {path}, line {number}: not valid JSON: {error}") from None
    if not isinstance(record, dict) or not isinstance(record.get("text"), str):
        raise UserError(f"text {path}, line {number}: expected an object with a string field 'text'")
    return str(record["text"])


def _slice(pieces: list[str], split: Split) -> list[str]:
    start, stop = SHARES[split]
    return pieces[int(start * len(pieces)) : int(stop * len(pieces))]


def _cut(piece: str, split: Split) -> list[str]:
    start, stop = SHARES[split]
    return [piece[int(start * len(piece)) : int(stop * len(piece))]]


def _share_of_folder(folder: Path, split: Split) -> list[Document]:
    files = _text_files(folder)
    if len(files) < len(SPLITS):
        raise UserError(f"text {folder}: needs at least {len(SPLITS)} .txt or .jsonl files, has {len(files)}")
    order = SPLITS.index(split)
    mine = [file for index, file in enumerate(files) if _owner(index, len(files)) == order]
    pieces = [Document(file.relative_to(folder).as_posix(), piece) for file in mine for piece in _read(file)]
    return _refuse_empty(pieces, folder)


def _owner(index: int, count: int) -> int:
    """Which purpose file ``index`` of ``count`` serves; each purpose gets at least one."""
    return min(index * len(SPLITS) // count, len(SPLITS) - 1)


def _refuse_empty(documents: list[Document], path: Path) -> list[Document]:
    kept = [document for document in documents if document.text.strip()]
    if not kept:
        raise UserError(f"text {path} is too short: nothing is left for one of calibration, search, evaluation")
    return kept
