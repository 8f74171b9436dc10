"""The embedded text: the Python standard library's own source, split by module into disjoint sets.

Every machine with Python has this text, so calibration, search and evaluation need no download. The
three sets below name whole modules; whatever is in none of them may be trained on (``training_text``). The
embedded model never saw a line of the three sets.

A module that moved between Python versions is listed under each of its names; names that a given
Python does not have are skipped.
"""

from __future__ import annotations

import sysconfig
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

Split = Literal["calibration", "search", "evaluation"]
SPLITS: tuple[Split, ...] = ("calibration", "search", "evaluation")

HELD_OUT_MODULES: dict[Split, tuple[str, ...]] = {
    "calibration": (
        "configparser.py",
        "gettext.py",
        "inspect.py",
        "json/__init__.py",
        "json/decoder.py",
        "json/encoder.py",
        "random.py",
        "shutil.py",
        "tarfile.py",
        "threading.py",
        "unittest/case.py",
        "urllib/request.py",
    ),
    "search": (
        "ast.py",
        "asyncio/tasks.py",
        "contextlib.py",
        "http/server.py",
        "ipaddress.py",
        "optparse.py",
        "plistlib.py",
        "subprocess.py",
        "uuid.py",
        "xml/etree/ElementTree.py",
        "zipfile.py",  # a module up to Python 3.11, a package since
        "zipfile/__init__.py",
    ),
    "evaluation": (
        "argparse.py",
        "calendar.py",
        "csv.py",
        "difflib.py",
        "email/message.py",
        "heapq.py",
        "http/client.py",
        "logging/handlers.py",
        "pathlib.py",  # a module up to Python 3.12, a package since
        "pathlib/__init__.py",
        "pathlib/_local.py",
        "sched.py",
        "statistics.py",
        "tempfile.py",
        "textwrap.py",
    ),
}

# Where only compiled files are installed, this project's own source stands in, split by room.
FALLBACK_ROOMS: dict[Split, tuple[str, ...]] = {
    "calibration": ("search", "models"),
    "search": ("checkpoints", "reporting"),
    "evaluation": ("merging", "calibration", "cli"),
}


@dataclass(frozen=True)
class Document:
    """One piece of text and the name it is reported under.

    ``continues``: the text goes on from where the document before it ends; large files are read in such pieces.
    """

    name: str
    text: str
    continues: bool = False

    def chunks(self, size: int) -> Iterator[str]:
        """The text, ``size`` characters at a time."""
        return (self.text[start : start + size] for start in range(0, len(self.text), size))


def standard_library_root() -> Path:
    """Folder that holds the standard library's ``.py`` files."""
    return Path(sysconfig.get_path("stdlib"))


def package_root() -> Path:
    """Folder of this package."""
    return Path(__file__).resolve().parent.parent


def held_out_documents(split: Split, root: Path | None = None) -> list[Document]:
    """The documents of one set, in the fixed order of ``HELD_OUT_MODULES``.

    Falls back to this package's own source when the standard library is installed without ``.py``
    files. Raises ``FileNotFoundError`` when neither exists.
    """
    base = standard_library_root() if root is None else root
    documents = [
        Document(f"stdlib:{name}", (base / name).read_text(encoding="utf-8"))
        for name in HELD_OUT_MODULES[split]
        if (base / name).is_file()
    ]
    return documents or fallback_documents(split)


def fallback_documents(split: Split) -> list[Document]:
    """This package's own source, by room: the text of last resort."""
    package = package_root()
    files = [path for room in FALLBACK_ROOMS[split] for path in sorted((package / room).rglob("*.py"))]
    documents = [
        Document(f"gqasearch:{path.relative_to(package).as_posix()}", path.read_text(encoding="utf-8"))
        for path in files
        if path.stat().st_size > 0
    ]
    if not documents:
        raise FileNotFoundError(
            "no embedded text: neither the standard library's .py files nor gqasearch's own are "
            "installed; pass --calibration-text FILE.txt"
        )
    return documents
