"""What a run shows of its stages: every count is of the stage whose name stands before it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from gqasearch.config import build_config
from gqasearch.run import run
from gqasearch.steps import NoProgress


class Counted(NoProgress):
    """Keeps the highest count of every stage, with its total."""

    def __init__(self) -> None:
        self.stages: list[tuple[str, int | None]] = []
        self.highest: list[int] = []

    def stage(self, name: str, total: int | None = None) -> None:
        self.stages.append((name, total))
        self.highest.append(0)

    def update(self, completed: int, point: object = None, detail: str = "") -> None:
        self.highest[-1] = max(self.highest[-1], completed)

    def counts(self, name: str) -> list[tuple[int, int | None]]:
        return [(high, total) for (one, total), high in zip(self.stages, self.highest, strict=True) if one == name]


@pytest.mark.parametrize("refine", ["none", "outputs"])
@pytest.mark.parametrize("materialize", [False, True])
def test_a_run_whose_search_is_done_gathers_statistics_in_a_stage_of_their_own(
    refine: str, materialize: bool, settings: dict[str, Any], tmp_path: Path
) -> None:
    """They were gathered within the evaluation, whose blocks were then told as layers of the calibration."""
    plain = {"method": "neighbour", "merge": "optimal", "objectives": ["weight-sharing-error"], "baseline": False}
    config = build_config({**settings, **plain, "refine": refine, "materialize": materialize})
    searched = run(config, tmp_path / "run", report=False)
    again = tmp_path / "again"
    again.mkdir()
    for name in ("config.yaml", "grouping.json", "history.jsonl"):
        if (searched.path / name).is_file():
            (again / name).write_bytes((searched.path / name).read_bytes())
    told = Counted()
    run(config, again, told, report=False)
    assert "search" not in dict(told.stages)
    assert told.counts("calibration") == [(2, 2)]
    ((blocks, total),) = told.counts("evaluation")
    assert blocks == total and total > 2
