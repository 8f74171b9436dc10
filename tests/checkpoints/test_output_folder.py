"""A checkpoint goes into any empty folder: a mount point, the end of a link, one in a folder that is not ours."""

from __future__ import annotations

import errno
from pathlib import Path
from typing import Any

import pytest

from gqasearch.config import build_config
from gqasearch.errors import UserError
from gqasearch.folders import new_folder
from gqasearch.run import RunFolder


@pytest.fixture
def mount(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that nothing can be renamed to, with what file systems keep."""
    folder = tmp_path / "mounted"
    (folder / "lost+found").mkdir(parents=True)
    original = Path.replace

    def replace(self: Path, target: Any) -> Path:
        if Path(target) == folder:
            raise OSError(errno.EBUSY, "Device or resource busy")
        return original(self, target)

    monkeypatch.setattr(Path, "replace", replace)
    return folder


def _fill(folder: Path) -> None:
    with new_folder(folder) as aside:
        (aside / "config.json").write_text("{}")
        (aside / "templates").mkdir()
        (aside / "templates" / "a.jinja").write_text("a")
        assert not (folder / "config.json").exists()


def test_a_mount_point_is_filled(mount: Path) -> None:
    _fill(mount)
    assert sorted(path.name for path in mount.iterdir()) == ["config.json", "lost+found", "templates"]
    with pytest.raises(UserError, match="is not an empty folder"):
        _fill(mount)


def test_a_mount_point_is_left_empty_by_an_error(mount: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match="cannot write checkpoint"), new_folder(mount) as aside:
        (aside / "config.json").write_text((mount / "none").read_text())
    original = Path.rename

    def rename(self: Path, target: Any) -> Path:
        if Path(target).name == "config.json" and Path(target).parent == mount:
            raise OSError(errno.EIO, "Input/output error")
        return original(self, target)

    monkeypatch.setattr(Path, "rename", rename)
    with pytest.raises(UserError, match="cannot write checkpoint"):
        _fill(mount)
    assert [path.name for path in mount.iterdir()] == ["lost+found"]


@pytest.mark.parametrize("exists", [True, False])
def test_a_link_is_followed(exists: bool, tmp_path: Path) -> None:
    if exists:
        (tmp_path / "disk").mkdir()
    (tmp_path / "out").symlink_to(tmp_path / "disk")
    _fill(tmp_path / "out")
    assert (tmp_path / "out").is_symlink()
    assert sorted(path.name for path in (tmp_path / "disk").iterdir()) == ["config.json", "templates"]


def test_a_run_goes_into_a_mount_point_and_a_link(mount: Path, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "disk")
    for path in (mount, tmp_path / "link"):
        RunFolder(path).open(build_config({}))
        assert (path / "config.yaml").is_file()
