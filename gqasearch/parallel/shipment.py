"""Folders as bytes, for machines that share no disk: one object per file, sent once, written where they are used."""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

PREFIX = "gqasearch-worker-"
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


def own_folder() -> Path:
    """A new folder of this process; those that killed workers left on this machine are removed."""
    base = Path(tempfile.gettempdir())
    for old in base.glob(f"{PREFIX}*"):
        if not _is_running(old.name.removeprefix(PREFIX).partition("-")[0]):
            shutil.rmtree(old, ignore_errors=True)
    return Path(tempfile.mkdtemp(prefix=f"{PREFIX}{os.getpid()}-", dir=base))


def _is_running(pid: str) -> bool:
    """True also where it cannot be told."""
    if not pid.isdecimal():
        return True
    try:
        os.kill(int(pid), 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True
    return True
