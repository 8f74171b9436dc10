"""The text that the embedded model is trained on: everything but the held-out modules.

Two sources: the standard library (minus ``HELD_OUT_MODULES``, tests, generated tables, idlelib) and
the sources of the packages installed in the training environment. A file that shares too many lines
with a held-out module (setuptools vendors tarfile and zipp, for instance) is left out.
"""

from __future__ import annotations

import random
import sysconfig
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from gqasearch.embedded.text import HELD_OUT_MODULES, SPLITS, held_out_documents, standard_library_root

SKIPPED_FOLDERS = {
    "test", "tests", "testing", "idlelib", "lib2to3", "encodings", "site-packages", "__pycache__", "pydoc_data",
    "turtledemo", "msilib", "ensurepip", "lib-dynload",
}  # fmt: skip
SKIPPED_PACKAGES = {"pygments", "fontTools", "cffi", "mypyc", "torchgen", "identify", "idna"}  # tables, mostly
LARGEST_FILE = 200_000  # bytes; larger files are generated
MOST_PER_PACKAGE = 5_000_000  # bytes
SHORTEST_LINE = 25  # characters; shorter lines are shared by all code
MOST_OVERLAP = 0.15  # share of a file's long lines that may also stand in a held-out module


@dataclass(frozen=True)
class Corpus:
    """Training documents: the standard library's, and those of installed packages."""

    stdlib: list[str]
    packages: list[str]
    left_out: list[str]  # names of the files dropped for overlap


def long_lines(text: str) -> set[str]:
    return {line.strip() for line in text.splitlines() if len(line.strip()) >= SHORTEST_LINE}


def source_files(root: Path) -> Iterator[Path]:
    for path in sorted(root.rglob("*.py")):
        inside = path.relative_to(root).parts
        if not SKIPPED_FOLDERS.intersection(inside) and 500 < path.stat().st_size <= LARGEST_FILE:
            yield path


def read_or_none(path: Path) -> str | None:
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError:
        return None


def build_corpus(seed: int = 0) -> Corpus:
    """Collect the training documents; deterministic for one environment and seed."""
    rng = random.Random(seed)
    held_out = set().union(*(long_lines(d.text) for split in SPLITS for d in held_out_documents(split)))
    names = {name for split in SPLITS for name in HELD_OUT_MODULES[split]}
    left_out: list[str] = []

    def keep(path: Path, label: str) -> str | None:
        text = read_or_none(path)
        if text is None:
            return None
        lines = long_lines(text)
        if lines and len(lines & held_out) / len(lines) > MOST_OVERLAP:
            left_out.append(label)
            return None
        return text

    root = standard_library_root()
    stdlib = [
        text
        for path in source_files(root)
        if (name := path.relative_to(root).as_posix()) not in names and (text := keep(path, f"stdlib:{name}"))
    ]
    packages: list[str] = []
    site = Path(sysconfig.get_path("purelib"))
    for folder in sorted(p for p in site.iterdir() if p.is_dir() and p.name not in SKIPPED_PACKAGES):
        files = list(source_files(folder))
        rng.shuffle(files)
        taken = 0
        for path in files:
            text = keep(path, path.relative_to(site).as_posix())
            if text and taken < MOST_PER_PACKAGE:
                packages.append(text)
                taken += len(text)
    return Corpus(stdlib, packages, left_out)
