"""What processes that were killed had written aside is removed by who writes there next; living ones are left alone."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from gqasearch import files
from gqasearch.calibration import TensorFiles
from gqasearch.files import aside_of, remove_abandoned, remove_all_abandoned, save_tensors, write_file

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


@pytest.mark.parametrize("mask", [0o022, 0o007])
def test_tensors_are_for_whom_other_files_are_for(mask: int, tmp_path: Path) -> None:
    """safetensors' own writer leaves them to their owner alone."""
    before = os.umask(mask)
    try:
        save_tensors(tmp_path / "it.safetensors", {"a": torch.arange(6).view(2, 3).T}, {"made": "here"})
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "it.safetensors").stat().st_mode) == 0o666 & ~mask
    assert torch.equal(load_file(tmp_path / "it.safetensors")["a"], torch.arange(6).view(2, 3).T)
    assert [path.name for path in tmp_path.iterdir()] == ["it.safetensors"]


@pytest.mark.skipif(not Path("/dev/full").is_char_device(), reason="needs a device that is always full")
@pytest.mark.parametrize("values", [3, 10**6])
def test_hidden_states_on_a_full_disk_say_so(values: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """numpy's own writer loses a few values without a word."""
    monkeypatch.setattr(TensorFiles, "_path", lambda *_: Path("/dev/full"))
    with pytest.raises(OSError, match="No space left") as full:
        TensorFiles(tmp_path, room=0).append(torch.ones(values))
    assert full.value.errno == errno.ENOSPC
