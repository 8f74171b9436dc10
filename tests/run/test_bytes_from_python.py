"""One budget in bytes from Python: what it becomes is what a run's becomes, and nothing is written."""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

import gqasearch as gqs
from gqasearch.config import build_config
from gqasearch.run import run

ASKED: dict[str, Any] = {"kv_bytes": 0.4, "formats": "int8,int4", "refine": "none", "merge": "mean"}
SMALL = {"population": 6, "generations": 1}


def loaded(settings: dict[str, Any]) -> gqs.ParentWithText:
    return gqs.load(text=settings["calibration_text"], **{k: v for k, v in settings.items() if k != "calibration_text"})


def test_a_budget_in_bytes_becomes_what_a_run_makes_of_it(settings: dict[str, Any], tmp_path: Path) -> None:
    result = gqs.search(loaded(settings), method=gqs.Evolution(**SMALL), **ASKED)
    config = build_config({**settings, **ASKED, "method_parameters": SMALL, "materialize": False, "baseline": False})
    folder = run(config, tmp_path / "run", report=False)
    assert result.decision == json.loads(folder.format.read_text())
    assert len(result.decision["options"]) == 2
    assert json.loads(result.document.to_json())["layers"] == json.loads(folder.grouping.read_text())["layers"]
    assert "of the parent's KV bytes in 16 bits became" in repr(result)

    (chosen,) = (row for row in result.decision["options"] if row["chosen"])
    assert result.grouping.kv_heads_total == chosen["kv_heads_total"]
    mine, theirs = result.measure(baseline=False), json.loads(folder.metrics.read_text())
    assert [row["format"] for row in mine["rounded"]] == [chosen["format"]] * 2
    for one, other in zip(mine["rounded"], theirs["rounded"], strict=True):
        assert one["kl"] == pytest.approx(other["kl"], rel=1e-6)
        assert one["kv_share"] == other["kv_share"]
    assert mine["rounded"][1]["kv_share"] <= 0.4
    card = (result.save(tmp_path / "saved") / "README.md").read_text()
    assert "Not measured" not in card
    assert f"became {chosen['kv_heads_total']} KV heads in the format {chosen['format']}" in card


def test_a_front_with_bytes_has_points_of_several_sizes(settings: dict[str, Any]) -> None:
    found = gqs.search(
        loaded(settings),
        fitness=["kl", "kv-bytes"],
        formats="int8,int4",
        refine="none",
        merge="mean",
        method=gqs.Evolution(**SMALL),
    )
    assert found.decision is not None
    front = sorted((row["kv_share"], row["kl"]) for row in found.decision["options"] if row["on_front"])
    assert len(front) > 1
    assert all(kl > smaller for (_, kl), (_, smaller) in pairwise(front))
