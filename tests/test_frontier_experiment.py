"""The experiment on heads and bits: rows that are kept, the best of them, the figure."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from experiments.frontier import __main__ as frontier
from experiments.frontier.figure import frontier_figure
from tests.samples import text_file
from tests.tiny_models import save_checkpoint, tiny_model


def test_rows_are_measured_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GQASEARCH_CACHE", str(tmp_path / "cache"))
    few = {"calibration_tokens": 800, "search_tokens": 200, "block_length": 32}
    monkeypatch.setitem(frontier.CONVERSIONS, "half", {**few, **frontier.RECIPE, "kv_ratio": 0.5})
    monkeypatch.setitem(frontier.CONVERSIONS, frontier.ALL, few)
    own: dict[str, Any] = {
        "model": str(save_checkpoint(tiny_model("llama"), tmp_path / "tiny")),
        "text": str(text_file(tmp_path)),
        "tokens": 600,
        "heads": [frontier.ALL, "half"],
        "output_dir": tmp_path / "runs",
        "results": tmp_path / "results",
    }
    frontier.measure(argparse.Namespace(**own, formats=["16", "8"]))
    measured: list[str] = []
    real = frontier.perform

    def noted(heads: str, arguments: argparse.Namespace, formats: list[str]) -> list[dict[str, Any]]:
        measured.append(f"{heads}: {', '.join(formats)}")
        return real(heads, arguments, formats)

    monkeypatch.setattr(frontier, "perform", noted)
    monkeypatch.setattr("gqasearch.run.pipeline.search_step", lambda *_: pytest.fail("it is there"))
    rows = frontier.measure(argparse.Namespace(**own, formats=["16", "8", "2"]))
    assert measured == [f"{frontier.ALL}: 2", "half: 2"]
    found = rows.set_index(["heads", "format"])
    assert found["kv_share"].to_dict() == {
        (heads, name): pytest.approx(share * bits)
        for heads, share in ((frontier.ALL, 1), ("half", 0.5))
        for name, bits in (("16", 1), ("8", 0.75), ("2", 0.375))  # of heads of 8, with 32 bits of scale and zero
    }
    for heads in (frontier.ALL, "half"):
        assert found.loc[heads, "8"]["kl"] < found.loc[heads, "2"]["kl"]
    assert found.loc[frontier.ALL, "8"]["kl"] < found.loc["half", "16"]["kl"]
    assert len(frontier_figure(rows).axes[0].lines) == 2


def test_the_table_marks_what_nothing_beats() -> None:
    shared = {"model": "m", "kl_low": 0.0, "kl_high": 1.0, "perplexity": 3.0}
    places = [("all", "8", 0.5, 0.1), ("half", "16", 0.5, 0.3), ("half", "8", 0.25, 0.3), ("all", "4", 0.25, 0.2)]
    rows = pd.DataFrame(
        [{**shared, "heads": heads, "format": name, "kv_share": share, "kl": kl} for heads, name, share, kl in places]
    )
    table = frontier.summary(rows)
    assert table["heads"].tolist() == ["all", "half", "all", "half"]
    assert table["best"].tolist() == ["*", "", "*", ""]
