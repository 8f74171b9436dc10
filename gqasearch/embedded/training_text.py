"""The text that may be trained on: the standard library's modules that are in none of the held-out sets.

The embedded model was trained on it (``experiments/embedded_model``), and healing trains on it by default. A file that
shares too many lines with a held-out module is left out, whatever its name.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from gqasearch.embedded.library_text import (
    FALLBACK_ROOMS,
    HELD_OUT_MODULES,
    SPLITS,
    Document,
    held_out_documents,
    package_root,
    standard_library_root,
)

SKIPPED_FOLDERS = {
    "test", "tests", "testing", "idlelib", "lib2to3", "encodings", "site-packages", "__pycache__", "pydoc_data",
    "turtledemo", "msilib", "ensurepip", "lib-dynload",
}  # fmt: skip
SMALLEST_FILE = 500  # bytes; smaller files are imports
LARGEST_FILE = 200_000  # bytes; larger files are generated
SHORTEST_LINE = 25  # characters; shorter lines are shared by all code
MOST_OVERLAP = 0.15  # share of a file's long lines that may also stand in a held-out module


def training_documents(root: Path | None = None) -> list[Document]:
    """The standard library without the held-out sets, in the order of the files' names.

    Falls back to this package's own source outside ``FALLBACK_ROOMS`` where the standard library is installed without
    ``.py`` files. ``root``: the folder of the standard library, if not this Python's.
    """
    reader = TrainingReader(root)
    return list(reader.standard_library()) or list(reader.own_source())


class TrainingReader:
    """Reads source files, and refuses those that share too many lines with a held-out module.

    ``left_out``: the names of the files refused so far.
    """

    def __init__(self, root: Path | None = None) -> None:
        self.root = standard_library_root() if root is None else root
        documents = [document for split in SPLITS for document in held_out_documents(split, root)]
        self.held_out = frozenset[str]().union(*(_long_lines(document.text) for document in documents))
        self.left_out: list[str] = []

    def read(self, path: Path, name: str) -> Document | None:
        """The file as a document; None when it is not UTF-8, or overlaps with held-out text."""
        try:
            text = path.read_text(encoding="utf-8")
        except UnicodeDecodeError:
            return None
        lines = _long_lines(text)
        if lines and len(lines & self.held_out) / len(lines) > MOST_OVERLAP:
            self.left_out.append(name)
            return None
        return Document(name, text)

    def standard_library(self) -> Iterator[Document]:
        """What may be trained on of the standard library; nothing where it has no ``.py`` files."""
        names = {name for split in SPLITS for name in HELD_OUT_MODULES[split]}
        for path in source_files(self.root):
            name = path.relative_to(self.root).as_posix()
            if name not in names and (document := self.read(path, f"stdlib:{name}")):
                yield document

    def own_source(self) -> Iterator[Document]:
        """What may be trained on of this package's own source."""
        package = package_root()
        held_out = {room for rooms in FALLBACK_ROOMS.values() for room in rooms}
        for path in source_files(package):
            name = path.relative_to(package)
            if name.parts[0] not in held_out and (document := self.read(path, f"gqasearch:{name.as_posix()}")):
                yield document


def source_files(root: Path) -> Iterator[Path]:
    """The ``.py`` files below ``root`` that people wrote to be read: no tests, no tables, nothing generated."""
    for path in sorted(root.rglob("*.py")):
        inside = path.relative_to(root).parts
        if not SKIPPED_FOLDERS.intersection(inside) and SMALLEST_FILE < path.stat().st_size <= LARGEST_FILE:
            yield path


def _long_lines(text: str) -> set[str]:
    return {line.strip() for line in text.splitlines() if len(line.strip()) >= SHORTEST_LINE}
