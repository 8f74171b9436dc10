"""Files: written so that a reader sees the old content or the new, and JSON read strictly."""

from __future__ import annotations

import json
import math
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO

from gqasearch.errors import UserError


def write_file(path: Path, data: bytes | str, *, overwrite: bool = False) -> None:
    """Write aside, then rename. Text is UTF-8.

    Raises ``UserError`` when the file exists and ``overwrite`` is not set, or cannot be written; nothing
    half-written is left.
    """
    with new_file(path, overwrite=overwrite) as file:
        file.write(data.encode() if isinstance(data, str) else data)


@contextmanager
def new_file(path: Path, *, overwrite: bool = False) -> Iterator[BinaryIO]:
    """Gives a file beside ``path`` to write into, part by part; on leaving, it is renamed to ``path``.

    On any exception nothing is left. Raises ``UserError`` as ``write_file`` does.
    """
    if path.exists() and not overwrite:
        raise UserError(f"{path} exists already; it is not overwritten unless you ask for it")
    aside = path.with_name(f".{path.name}.partial-{os.getpid()}")
    try:
        with aside.open("wb") as file:
            yield file
        aside.replace(path)
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror or error}") from error
    finally:
        with suppress(OSError):  # where the folder itself is no folder, the first error is the one to show
            aside.unlink(missing_ok=True)


def remove_abandoned(path: Path) -> None:
    """Remove what processes that were killed while writing the file or folder ``path`` left behind."""
    prefix = f".{path.name}.partial-"
    for left in path.parent.iterdir():
        process = left.name.removeprefix(prefix)
        if left.name.startswith(prefix) and process.isdecimal() and not _is_running(int(process)):
            if left.is_dir():
                shutil.rmtree(left, ignore_errors=True)
            else:
                left.unlink(missing_ok=True)


def _is_running(process: int) -> bool:
    """Whether another process has this id; our own id on a folder found here is a dead namesake's."""
    if process == os.getpid():
        return False
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True
    return True


def read_json(path: Path) -> dict[str, Any]:
    """The JSON object in a file; raises ``UserError`` for anything else, NaN and infinities included."""
    data = read_json_value(path)
    if not isinstance(data, dict):
        raise UserError(f"{path} must hold a JSON object")
    return data


def write_json(path: Path, value: dict[str, Any], *, overwrite: bool = False) -> None:
    """Write a JSON object as ``read_json`` takes it, whole or not at all."""
    write_file(path, json.dumps(value, indent=1, allow_nan=False) + "\n", overwrite=overwrite)


def read_json_value(path: Path) -> Any:
    """Any JSON value in a file; raises ``UserError`` for what is no JSON, NaN and infinities included."""
    try:
        return json.loads(path.read_text(encoding="utf-8"), parse_constant=_finite, parse_float=_finite)
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror or error}") from None
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path} is not valid JSON: {error}") from None


def _finite(text: str) -> float:
    """JSON has no infinity and no NaN; Python would read both, and 1e999 as infinity."""
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"{text} is no finite number")
    return value
