"""The experiment on wide heads: rows that are kept, and the table that people read."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from experiments.joined import __main__ as joined
from tests.samples import text_file
from tests.tiny_models import save_checkpoint, tiny_model


def arguments(tmp_path: Path, **changes: Any) -> argparse.Namespace:
    model = tmp_path / "tiny"
    if not model.is_dir():
        save_checkpoint(tiny_model("llama"), model)
    own = {"model": str(model), "text": str(text_file(tmp_path)), "ratios": [1 / 3], "joins": [1, 2], "kinds": ["even"]}
    return argparse.Namespace(**own, **changes, output_dir=tmp_path / "runs", results=tmp_path / "results")


def test_rows_are_measured_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GQASEARCH_CACHE", str(tmp_path / "cache"))
    few = {"calibration_tokens": 800, "search_tokens": 200, "evaluation_tokens": 400, "block_length": 32}
    monkeypatch.setitem(joined.KINDS, "even", {**few, "refine": "outputs"})
    rows = joined.measure(arguments(tmp_path))
    assert rows["join"].tolist() == [1, 2] and rows["kv_share"].tolist() == pytest.approx([1 / 3, 1 / 3])
    assert rows["head_dim"].tolist() == [8, 16] and (rows["kl"] > 0).all()
    monkeypatch.setattr("gqasearch.run.pipeline.search_step", lambda *_: pytest.fail("it is there"))
    again = joined.measure(arguments(tmp_path))
    assert again["kl"].tolist() == pytest.approx(rows["kl"].tolist(), rel=1e-5) and len(again) == 2


def test_the_table_tells_what_of_one_size_is_left() -> None:
    row = {"model": "m", "ratio": 0.5, "kind": "even", "kv_share": 0.5, "perplexity": 3.0, "parameters": 3_000_000}
    row |= {"parent_parameters": 2_000_000, "query_heads": 6, "layout": "stock-padded", "cpu_seconds": 10.0}
    rows = pd.DataFrame(
        [
            {**row, "join": 1, "kl": 0.4, "head_dim": 8},
            {**row, "join": 2, "kl": 0.1, "head_dim": 16, "query_heads": None},
        ]
    )
    table = joined.summary(rows)
    assert table["of one size's"].tolist() == ["", "0.25"]
    assert table["head size"].tolist() == ["as it was", "2 heads'"]
    assert table["queries"].tolist() == ["6 x 8", ""] and table["parameters"][0] == "3.00 M (1.50)"
    assert joined.summary(rows[1:])["of one size's"].tolist() == [""]  # nothing to compare with
