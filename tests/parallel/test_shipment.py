"""Folders as bytes, and no file left behind."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import pytest

from gqasearch.parallel import shipment
from gqasearch.parallel.shipment import LOCK, PREFIX, OwnFolder, read_folder, write_folder


def test_files_arrive_as_they_were(tmp_path: Path) -> None:
    (tmp_path / "a" / "subfolder").mkdir(parents=True)
    (tmp_path / "a" / "weights").write_bytes(bytes(range(256)) * 9)
    (tmp_path / "a" / "empty").touch()
    write_folder(read_folder(tmp_path / "a"), tmp_path / "b")
    assert {path.name: path.read_bytes() for path in (tmp_path / "b").iterdir()} == {
        "weights": bytes(range(256)) * 9,
        "empty": b"",
    }
    with pytest.raises(ValueError, match="no plain file name"):
        write_folder({"../up": b""}, tmp_path / "c")


def test_only_abandoned_folders_are_removed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setattr(shipment, "NEW_SECONDS", 0.0)
    alive = OwnFolder()
    for path in (tmp_path / f"{PREFIX}dead", tmp_path / "others"):
        path.mkdir()
        (path / LOCK).touch()
        os.utime(path, (1, 1))
    OwnFolder().remove()
    assert {path.name for path in tmp_path.iterdir()} == {alive.path.name, "others"}
    alive.remove()
    assert not alive.path.exists()
