"""Where transformers puts modelling code of checkpoints before it runs it."""

from __future__ import annotations

import atexit
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

import transformers.dynamic_module_utils

_READS: Any = transformers.dynamic_module_utils  # the name of the folder, whenever it needs it


@contextmanager
def own_modules_cache() -> Iterator[None]:
    """Within the block transformers copies modelling code to a folder of this process, which goes away with it.

    Its usual place is under the home folder, which may be read-only, and keeps a copy of every checkpoint's code.
    """
    before = _READS.HF_MODULES_CACHE
    _READS.HF_MODULES_CACHE = _folder()
    try:
        yield
    finally:
        _READS.HF_MODULES_CACHE = before


@cache
def _folder() -> str:
    folder = tempfile.TemporaryDirectory(prefix="gqasearch-modules-")
    atexit.register(folder.cleanup)
    return folder.name
