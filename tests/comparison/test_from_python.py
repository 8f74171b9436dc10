"""``gqs.compare`` measures what ``gqasearch compare`` does."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd

import gqasearch as gqs
from gqasearch.comparison import build_comparison, compare


def test_the_same_as_from_the_command_line(values: dict[str, Any], tmp_path: Path) -> None:
    few = {"fitness": ("merge-error",), "seeds": 0, "sample": 4, "sample_tokens": 200}
    same = compare(build_comparison({"run": values["run"], **few}), tmp_path / "same")
    run = dict(values["run"])
    model, text, refine = (run.pop(name) for name in ("model", "calibration_text", "refine"))
    parent = gqs.load(model, text=text, **run)
    found = gqs.compare(parent, tmp_path / "found", refine=refine, **few)
    pd.testing.assert_frame_equal(found.sample, same.sample)
    assert set(found.figures()) == {"correlations", "ranks-optimal-0.5"}
