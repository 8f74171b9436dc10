"""Temporary folders that live as long as an object does."""

from __future__ import annotations

import shutil
import weakref
from pathlib import Path
from tempfile import mkdtemp


def scratch_folder(owner: object, prefix: str) -> Path:
    """A new temporary folder; removed with ``owner``, at the latest when the process ends."""
    folder = Path(mkdtemp(prefix=prefix))
    weakref.finalize(owner, shutil.rmtree, folder, ignore_errors=True)
    return folder
