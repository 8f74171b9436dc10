"""SIGKILL and Ctrl-C at every operation on a file: the source stays, and no folder looks finished that is not."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

from gqasearch.grouping_document import MergeRecord, write_grouping
from gqasearch.models import load_parent
from tests.checkpoints.convert import SYMMETRIC, document_for
from tests.tiny_models import save_checkpoint, tiny_model


def interrupted(tmp_path: Path, signal: str) -> list[dict[str, Any]]:
    """What ``killable`` tells of a conversion of four shards; the last of it of the one that nothing interrupted."""
    source = save_checkpoint(tiny_model("llama"), tmp_path / "source", max_shard_size="80KB")
    assert len(list(source.glob("*.safetensors"))) == 4
    document = replace(document_for(load_parent(str(source)), SYMMETRIC), merge=MergeRecord("mean"))
    write_grouping(tmp_path / "grouping.json", document)
    (tmp_path / "target").mkdir()
    arguments = [str(tmp_path / name) for name in ("source", "grouping.json", "target/out")]
    command = [sys.executable, "-W", "ignore", "-m", "tests.checkpoints.killable", *arguments, signal]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    told: list[dict[str, Any]] = [json.loads(line) for line in result.stdout.splitlines()]
    assert len(told) > 50
    assert told[-1] == {"ended": 0, "source unchanged": True, "written": True, "beside": []}
    return told


def test_killed_before_any_operation(tmp_path: Path) -> None:
    """What is left beside is removed by the next attempt, and the last one, the same command again, succeeds."""
    told = interrupted(tmp_path, "SIGKILL")
    for state in told[:-1]:
        assert state["ended"] == -9 and state["source unchanged"]
        assert state["written"] in (None, True)  # not there, or complete
        assert len(state["beside"]) <= 1 and all(".out.partial-" in name for name in state["beside"])
    assert sum(state["written"] is None for state in told) > 50
    assert sum(len(state["beside"]) for state in told) > 50


def test_ctrl_c_before_any_operation(tmp_path: Path) -> None:
    for state in interrupted(tmp_path, "SIGINT")[:-1]:
        assert state["ended"] == 130 and state["source unchanged"]
        assert state["written"] in (None, True)
        assert state["beside"] == []
