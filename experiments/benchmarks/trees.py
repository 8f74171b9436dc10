"""Source trees that a benchmark runs side by side: this one, and a commit in a worktree of its own."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from gqasearch.errors import UserError

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("gqasearch", "fitness")
THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")


@dataclass(frozen=True)
class Tree:
    """Code in ``folder`` at ``commit``, and the interpreter whose environment it runs in."""

    folder: Path
    commit: str
    python: Path

    def environment(self, threads: int, **further: str) -> Mapping[str, str]:
        """Variables of a process that runs this tree's packages with so many threads in numerical libraries."""
        paths = os.pathsep.join((str(self.folder), str(self.folder / "fitness")))
        counts = dict.fromkeys(THREADS, str(threads))
        return {**os.environ, **counts, "PYTHONPATH": paths, "TOKENIZERS_PARALLELISM": "false", **further}


def this_tree() -> Tree:
    """The tree of this file; its commit is the last that changed the packages, with "+" where they differ from it."""
    commit = _git("log", "-1", "--format=%h", "--", *PACKAGES)
    changed = _git("status", "--porcelain", "--", *PACKAGES)
    return Tree(ROOT, f"{commit}+" if changed else commit, Path(sys.executable))


def commit_of(revision: str) -> str:
    """Its short hash; raises ``UserError`` for what is no commit here."""
    return _git("rev-parse", "--short", "--verify", f"{revision}^{{commit}}")


@contextmanager
def tree_of(revision: str, python: Path | None) -> Iterator[Tree]:
    """``revision`` in a worktree that is removed on leaving; without ``python`` with an environment of its own, which
    `make venv` makes there from that commit's pins.
    """
    commit = commit_of(revision)
    with tempfile.TemporaryDirectory(prefix="gqasearch-tree-") as name:
        folder = Path(name) / commit
        _git("worktree", "add", "--detach", str(folder), commit)
        try:
            if python is None:
                subprocess.run(["make", "venv", f"PYTHON={sys.executable}"], cwd=folder, check=True)  # noqa: S603, S607
            yield Tree(folder, commit, python or folder / ".venv" / "bin" / "python")
        finally:
            _git("worktree", "remove", "--force", str(folder))


def _git(*arguments: str) -> str:
    done = subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True)  # noqa: S603, S607
    if done.returncode:
        raise UserError(f"git {' '.join(arguments)}: {done.stderr.strip()}")
    return done.stdout.strip()
