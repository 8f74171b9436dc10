"""What runs share changes no result."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from gqasearch.config import build_config
from gqasearch.grouping_document import read_grouping
from gqasearch.run import RunFolder, run
from gqasearch.steps import ProcessCache

# As little of a staged search as passes through all of its stages.
BRIEF = {"population": 2, "offspring": 4, "generations": 1, "first_tokens": 32, "sensitivity_levels": 2}
CASES: tuple[dict[str, Any], ...] = (
    {"objectives": ["kl"], "refine": "outputs", "method": "staged", "method_parameters": BRIEF},
    {
        "objectives": ["merge-error"],
        "refine": "none",
        "method": "hill-climb",
        "method_parameters": {"restarts": 2, "swaps": 200},
    },
)


def lines(folder: RunFolder) -> list[str]:
    """History without its seconds."""
    return [line.partition(', "seconds"')[0] for line in folder.history.read_text(encoding="utf-8").splitlines()]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case["objectives"][0])
def test_a_run_after_others_has_the_same_bits(
    settings: dict[str, Any], tmp_path: Path, case: dict[str, Any], nightly: bool
) -> None:
    shared = {**settings, **case, "materialize": False, "baseline": False}
    cache = ProcessCache()
    for seed in (1, 2) if nightly else (1,):
        run(build_config({**shared, "seed": seed}), tmp_path / f"before-{seed}", cache=cache)
    after = run(build_config({**shared, "seed": 3}), tmp_path / "after", cache=cache)
    alone = run(build_config({**shared, "seed": 3}), tmp_path / "alone")
    assert lines(after) == lines(alone)
    assert read_grouping(after.grouping) == read_grouping(alone.grouping)


def test_the_same_is_made_once_and_the_oldest_goes() -> None:
    cache, made = ProcessCache(), list[int]()

    def make(value: int) -> int:
        made.append(value)
        return value

    for value in (1, 2, 1, 3, 1, 2):
        assert cache.get("small", 2, value, lambda value=value: make(value)) == value
    assert made == [1, 2, 3, 2]
    assert cache.get("other", 2, 1, lambda: 7) == 7
