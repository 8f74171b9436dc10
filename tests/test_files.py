"""What processes that were killed had written aside is removed by who writes there next; living ones are left alone."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from gqasearch import files
from gqasearch.files import aside_of, remove_abandoned, remove_all_abandoned, write_file

NO_PROCESS = 4194305  # above the largest id


def left_by(path: Path, process: int, machine: str | None = None, *, age: float = 0.0) -> Path:
    """What a process on this machine, or another, writes aside for ``path``; a folder with a file in it."""
    here = aside_of(path).name.rpartition("-")[0]
    stem = here if machine is None else here.rpartition("-")[0] + f"-{machine}"
    folder = path.with_name(f"{stem}-{process}")
    folder.mkdir()
    (folder / "part").write_text("part")
    for changed in (folder / "part", folder):
        os.utime(changed, (changed.stat().st_mtime - age,) * 2)
    return folder


def test_only_what_nobody_writes_any_more_is_removed(tmp_path: Path) -> None:
    out = tmp_path / "out"
    dead, alive = left_by(out, NO_PROCESS), left_by(out, os.getppid())
    elsewhere = left_by(out, NO_PROCESS, "0123abcd")
    forgotten = left_by(out, NO_PROCESS + 1, "0123abcd", age=files.FORGOTTEN + 60)
    other = left_by(tmp_path / "other", NO_PROCESS)
    remove_abandoned(out)
    assert not dead.exists() and not forgotten.exists()
    assert alive.exists() and elsewhere.exists() and other.exists()
    ours = aside_of(out)
    ours.mkdir()
    remove_all_abandoned(tmp_path)
    assert not other.exists() and alive.exists() and elsewhere.exists() and ours.exists()


def test_old_names_are_removed_when_they_are_old(tmp_path: Path) -> None:
    """Versions before wrote ``.partial-RANDOM`` in the cache, and no machine's name."""
    for name, age in ((".partial-abc1234", 0.0), (".partial-old5678", files.FORGOTTEN + 60)):
        (tmp_path / name).mkdir()
        os.utime(tmp_path / name, ((tmp_path / name).stat().st_mtime - age,) * 2)
    remove_all_abandoned(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == [".partial-abc1234"]


@pytest.mark.parametrize("name", ["metrics.json", "a[1]*.json"])
def test_a_file_that_is_written_again_clears_up_after_who_was_killed(tmp_path: Path, name: str) -> None:
    dead = left_by(tmp_path / name, NO_PROCESS)
    write_file(tmp_path / name, "{}")
    assert not dead.exists() and [path.name for path in tmp_path.iterdir()] == [name]
