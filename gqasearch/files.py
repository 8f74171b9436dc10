"""Files: written so that a reader sees the old content or the new, and JSON read strictly."""

from __future__ import annotations

import glob
import hashlib
import json
import math
import os
import platform
import shutil
import stat
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from gqasearch.errors import UserError

if TYPE_CHECKING:  # what only moves files need not wait for it
    from torch import Tensor

FORGOTTEN = 7 * 24 * 3600.0  # seconds without a change after which what another machine wrote is taken for abandoned
# What some file systems keep at their root: a mount point with nothing else is empty.
NOT_CONTENT = ("lost+found",)


def cache_root() -> Path:
    """``$GQASEARCH_CACHE``, or ``gqasearch`` in the user's cache folder."""
    named = os.environ.get("GQASEARCH_CACHE")
    if named:
        return Path(named)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "gqasearch"


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
    aside = aside_of(path)
    try:
        remove_abandoned(path)
        with aside.open("wb") as file:
            yield file
        aside.replace(path)
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror or error}") from error
    finally:
        with suppress(OSError):  # where the folder itself is no folder, the first error is the one to show
            aside.unlink(missing_ok=True)


def save_tensors(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None) -> None:
    """A safetensors file, complete when it appears, that may be read by whoever may read other new files.

    safetensors leaves files to their owner alone, whatever the umask: of no use in a cache that several people share.
    """
    from safetensors.torch import save_file

    unfinished = path.with_name(f"{path.name}.unfinished")
    unfinished.write_bytes(b"")  # for its mode
    mode = stat.S_IMODE(unfinished.stat().st_mode)
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, unfinished, dict(metadata or {}) or None)
    unfinished.chmod(mode)
    unfinished.replace(path)


def aside_of(path: Path) -> Path:
    """Where this process writes what is to become ``path``: beside it, under a name that says whose it is."""
    return path.with_name(f".{path.name}{_ours()}")


def _ours() -> str:
    return f".partial-{_machine()}-{os.getpid()}"


def remove_abandoned(path: Path) -> None:
    """Remove what processes that were killed while writing the file or folder ``path`` left behind."""
    for left in path.parent.glob(f".{glob.escape(path.name)}.partial-*"):
        _remove_if_abandoned(left)


def adopt_abandoned(path: Path, aside: Path) -> None:
    """Take over, as ``aside``, what a process of this machine that was killed while making the folder ``path`` left.

    What this process itself left there after an error is there already.
    """
    for left in path.parent.glob(f".{glob.escape(path.name)}.partial-{_machine()}-*"):
        process = left.name.rpartition("-")[2]
        if not aside.exists() and process.isdecimal() and not _is_running(int(process)):
            with suppress(OSError):  # another process was quicker
                left.rename(aside)


def remove_all_abandoned(folder: Path) -> None:
    """The same of everything that other processes write in ``folder``."""
    for left in folder.glob(".*partial-*"):
        if not left.name.endswith(_ours()):
            _remove_if_abandoned(left)


def _remove_if_abandoned(left: Path) -> None:
    """Unless its writer may still be at work: on this machine that is known, on others it is taken to be for a week."""
    machine, _, process = left.name.rpartition(".partial-")[2].rpartition("-")
    if machine == _machine() and process.isdecimal():
        is_alive = _is_running(int(process))
    else:
        is_alive = time.time() - _latest_change(left) < FORGOTTEN
    if is_alive:
        return
    if left.is_dir():
        shutil.rmtree(left, ignore_errors=True)
    else:
        with suppress(OSError):
            left.unlink(missing_ok=True)


def _latest_change(path: Path) -> float:
    """When it or a file in it was changed last, seconds since 1970; now, if it vanishes meanwhile."""
    try:
        files = [path, *(path.iterdir() if path.is_dir() else ())]
        return float(max(file.stat().st_mtime for file in files))
    except OSError:
        return time.time()


@cache
def _machine() -> str:
    """Eight characters that tell machines apart which share a disk: ids of processes are each machine's own."""
    return hashlib.sha256(platform.node().encode()).hexdigest()[:8]


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
