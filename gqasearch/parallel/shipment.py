"""Folders as bytes, for machines that share no disk: one object per file, sent once, written where they are used."""

from __future__ import annotations

import shutil
import tempfile
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock, Timeout
from numpy.typing import NDArray

PREFIX, LOCK = "gqasearch-worker-", ".lock"
NEW_SECONDS = 60.0
Files = dict[str, NDArray[np.uint8]]


def read_folder(folder: Path) -> Files:
    """File name -> bytes, (n,); arrays, which go through an object store without a copy. Subfolders are left out."""
    return {path.name: np.fromfile(path, dtype=np.uint8) for path in sorted(folder.iterdir()) if path.is_file()}


def write_folder(files: dict[str, Any], folder: Path) -> None:
    """The same files, in a new folder."""
    folder.mkdir()
    for name, content in files.items():
        if Path(name).name != name:
            raise ValueError(f"{name!r} is no plain file name")
        (folder / name).write_bytes(memoryview(content))


class OwnFolder:
    """A temporary folder of this process, locked for as long as it lives.

    Those that killed processes left on this machine, whose locks are open, are removed.
    """

    def __init__(self) -> None:
        base = Path(tempfile.gettempdir())
        for old in base.glob(f"{PREFIX}*"):
            _remove_abandoned(old)
        self.path = Path(tempfile.mkdtemp(prefix=PREFIX, dir=base))
        self._lock = FileLock(self.path / LOCK)
        self._lock.acquire()

    def remove(self) -> None:
        """It and all that is in it."""
        self._lock.release()
        shutil.rmtree(self.path, ignore_errors=True)


def _remove_abandoned(folder: Path) -> None:
    """One that is new may not be locked yet."""
    with suppress(OSError, Timeout):
        if time.time() - folder.stat().st_mtime > NEW_SECONDS:
            with FileLock(folder / LOCK).acquire(timeout=0):
                shutil.rmtree(folder, ignore_errors=True)
