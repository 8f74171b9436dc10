"""Writing files so that a reader sees the old content or the new, never a part of it."""

from __future__ import annotations

import os
from pathlib import Path

from gqasearch.errors import UserError


def write_file(path: Path, data: bytes | str, *, overwrite: bool = False) -> None:
    """Write aside, then rename. Text is UTF-8.

    Raises ``UserError`` when the file exists and ``overwrite`` is not set, or cannot be written; nothing
    half-written is left.
    """
    if path.exists() and not overwrite:
        raise UserError(f"{path} exists already; it is not overwritten unless you ask for it")
    aside = path.with_name(f".{path.name}.partial-{os.getpid()}")
    try:
        aside.write_bytes(data.encode() if isinstance(data, str) else data)
        aside.replace(path)
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror or error}") from error
    finally:
        aside.unlink(missing_ok=True)
