"""A folder that appears under its name only when it is complete."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from safetensors import SafetensorError

from gqasearch.errors import UserError
from gqasearch.files import NOT_CONTENT, aside_of, remove_abandoned


@contextmanager
def new_folder(path: Path) -> Iterator[Path]:
    """Gives a temporary folder beside ``path`` to fill; on leaving, it is renamed to ``path``.

    Where ``path`` is an empty folder that nothing can be renamed to (a mount point, or one in a folder that may not be
    written to), the temporary folder is made within, and its content is moved up, ``config.json`` last. A link is
    followed. On any exception, Ctrl-C included, the temporary folder is removed and ``path`` is as it was.
    Raises ``UserError`` when ``path`` exists and is not an empty folder, and when the disk is full.
    """
    path = path.resolve()
    if path.exists() and not (path.is_dir() and is_empty(path)):
        raise UserError(f"{path} exists already and is not an empty folder; checkpoints are not overwritten")
    aside = aside_of(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.exists() and not _can_be_replaced(path, aside):
            aside = path / aside.name
        remove_abandoned(aside.parent / path.name)
        aside.mkdir()
        yield aside
        _make_readable(aside)
        if aside.parent == path:
            _move_up(aside)
        else:
            aside.replace(path)
    except (OSError, SafetensorError) as error:
        raise UserError(f"cannot write checkpoint {path}: {error}") from error
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def is_empty(folder: Path) -> bool:
    """Whether nothing is there but what file systems and killed processes leave."""
    own = f".{folder.name}.partial-"
    return not any(entry.name not in NOT_CONTENT and not entry.name.startswith(own) for entry in folder.iterdir())


def _can_be_replaced(path: Path, aside: Path) -> bool:
    """Whether a folder can be renamed to the empty folder ``path``: tried, since no other way tells of every mount."""
    try:
        aside.mkdir()
        aside.replace(path)
    except OSError:
        with suppress(OSError):
            aside.rmdir()
        return False
    return True


def _make_readable(folder: Path) -> None:
    """safetensors saves 0600, which no other user of the machine could read."""
    for file in folder.rglob("*"):
        if file.is_file():
            file.chmod(0o644)


def _move_up(aside: Path) -> None:
    """Move all that ``aside`` holds to the folder that it lies in; nothing of it where that fails."""
    moved: list[Path] = []
    try:
        for entry in sorted(aside.iterdir(), key=lambda entry: entry.name == "config.json"):
            place = entry.rename(aside.parent / entry.name)
            moved.append(place)
    except BaseException:
        for entry in moved:
            entry.rename(aside / entry.name)
        raise
