"""What a comparison says of its work before it, and the bar over all of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from gqasearch.comparison import build_comparison, compare
from gqasearch.comparison.comparison_folder import ComparisonFolder
from gqasearch.comparison.searches import Plan
from gqasearch.comparison.work_plan import OneBar, expected_seconds
from gqasearch.steps import NoProgress, ProcessCache


class Told(NoProgress):
    """Keeps what a progress is told."""

    def __init__(self) -> None:
        self.stages: list[tuple[str, int | None]] = []
        self.updates: list[tuple[int, str]] = []

    def stage(self, name: str, total: int | None = None) -> None:
        self.stages.append((name, total))

    def update(self, completed: int, point: object = None, detail: str = "") -> None:
        self.updates.append((completed, detail))


def test_one_bar_over_all_stages() -> None:
    told = Told()
    bar = OneBar(told, {"a": 30.0, "b": 70.0})
    bar.stage("a")
    bar.stage("not foreseen", total=2)
    bar.stage("b", total=10)
    bar.update(5)
    assert told.stages == [("comparison, percent", 100)]
    assert told.updates == [(0, "a"), (30, "not foreseen  0/2"), (30, "b  0/10"), (65, "b  5/10")]


def test_every_stage_is_foreseen_and_told(values: dict[str, Any], tmp_path: Path) -> None:
    config = build_comparison({**values, "fitness": ("weight-sharing-error", "merge-error"), "seeds": 1, "sample": 4})
    cache, folder = ProcessCache(), ComparisonFolder(tmp_path / "out")
    foreseen = expected_seconds(config, Plan.of(config, cache), folder, cache)
    words: list[str] = []
    told = Told()
    compare(config, folder.path, told, words.append)
    assert dict.fromkeys(detail.partition("  ")[0] for _, detail in told.updates) == dict.fromkeys(foreseen)
    free = {name for name, seconds in foreseen.items() if not seconds}  # a product of matrices that are there
    assert free == {name for name in foreseen if name.startswith("weight-sharing-error ")}
    percents = [completed for completed, _ in told.updates]
    assert percents == sorted(percents) and percents[0] == 0 and percents[-1] <= 100
    plan = next(one for one in words if one.startswith("the plan"))
    assert "2 searches (budget: 40 evaluations) and one run without a search; 4 random and at most 4 of" in plan
    assert "by 2 fitness functions (24 evaluations)" in plan and "expected time: about " in words[-1]
    words.clear()
    compare(config, folder.path, tell=words.append)
    assert not [one for one in words if "time" in one]


def test_statistics_are_gathered_before_the_stage_that_reads_them(values: dict[str, Any], tmp_path: Path) -> None:
    """Else the groupings measured after them are told as layers of the calibration."""
    config = build_comparison({**values, "fitness": ("weight-sharing-error",), "seeds": 0, "sample": 4})
    told = Told()
    compare(config, tmp_path / "out", told)
    names = list(dict.fromkeys(detail.partition("  ")[0].partition(" ")[0] for _, detail in told.updates))
    assert names == ["calibration", "quality", "weight-sharing-error"]
    assert [detail for _, detail in told.updates if detail.startswith("calibration")][-1] == "calibration  2/2"
    assert [detail for _, detail in told.updates if detail.startswith("quality")][-1].endswith("4/4")
