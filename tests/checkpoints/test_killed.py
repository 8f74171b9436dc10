"""SIGKILL and Ctrl-C at operations on files: the source stays, and no folder looks finished that is not."""

from __future__ import annotations

import json
import signal
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from gqasearch.grouping_document import MergeRecord, write_grouping
from gqasearch.models import load_parent
from tests import forked
from tests.checkpoints.convert import SYMMETRIC, document_for
from tests.checkpoints.killable import hit_at_operations
from tests.tiny_models import save_checkpoint, tiny_model

# A conversion has about a hundred operations on files; `make test-all` interrupts it at each.
STEP = 9


def interrupted(tmp_path: Path, number: signal.Signals, step: int) -> list[dict[str, Any]]:
    """What ``killable`` tells of a conversion of four shards; the last of it of the one that nothing interrupted."""
    source = save_checkpoint(tiny_model("llama"), tmp_path / "source", max_shard_size="80KB")
    assert len(list(source.glob("*.safetensors"))) == 4
    document = replace(document_for(load_parent(str(source)), SYMMETRIC), merge=MergeRecord("mean"))
    write_grouping(tmp_path / "grouping.json", document)
    (tmp_path / "target").mkdir()
    places = [tmp_path / name for name in ("source", "grouping.json", "target/out")]
    process = forked.start(hit_at_operations, *places, number, step, tmp_path / "told.jsonl")
    process.join(300)
    assert process.exitcode == 0
    told: list[dict[str, Any]] = [json.loads(line) for line in (tmp_path / "told.jsonl").read_text().splitlines()]
    assert len(told) > 50 // step
    assert told[-1] == {"ended": 0, "source unchanged": True, "written": True, "beside": []}
    return told


@pytest.fixture
def step(nightly: bool) -> int:
    return 1 if nightly else STEP


def test_killed_before_any_operation(tmp_path: Path, step: int) -> None:
    """What is left beside is removed by the next attempt, and the last one, the same command again, succeeds."""
    told = interrupted(tmp_path, signal.SIGKILL, step)
    for state in told[:-1]:
        assert state["ended"] == -9 and state["source unchanged"]
        assert state["written"] in (None, True)  # not there, or complete
        assert len(state["beside"]) <= 1 and all(".out.partial-" in name for name in state["beside"])
    assert sum(state["written"] is None for state in told) > 50 // step
    assert sum(len(state["beside"]) for state in told) > 50 // step


def test_ctrl_c_before_any_operation(tmp_path: Path, step: int) -> None:
    for state in interrupted(tmp_path, signal.SIGINT, step)[:-1]:
        assert state["ended"] == 130 and state["source unchanged"]
        assert state["written"] in (None, True)
        assert state["beside"] == []
