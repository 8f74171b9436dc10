"""What rows were measured with, beside them: rows of other settings do not belong into one table."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from gqasearch.errors import UserError
from gqasearch.files import read_json, write_json
from gqasearch.run.run_folder import environment

RECORD = "record.json"


def require_same(folder: Path, settings: dict[str, Any]) -> None:
    """Write ``settings`` into ``folder``, with the versions of what computes; ``UserError`` names what differed before.

    Values are those of JSON.
    """
    path = folder / RECORD
    if not path.is_file():
        folder.mkdir(parents=True, exist_ok=True)
        found = environment()
        del found["command"]  # folders of one machine, and of the first of many commands
        write_json(path, {**settings, **found})
        return
    before = read_json(path)
    for name, value in settings.items():
        if before.get(name) != value:
            raise UserError(
                f"{path}: rows were measured with {name} {before.get(name)!r}, not {value!r}; give another folder for "
                "these"
            )
