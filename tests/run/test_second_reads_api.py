"""``fill_slots`` from Python."""

from __future__ import annotations

from pathlib import Path

import pytest

from gqasearch.api import load, search
from gqasearch.errors import UserError
from gqasearch.refining import Outputs


def test_a_search_that_fills_slots(
    checkpoint: Path, text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GQASEARCH_CACHE", str(tmp_path / "cache"))
    small = {"calibration_tokens": 1000, "search_tokens": 300, "evaluation_tokens": 300, "block_length": 32}
    parent = load(checkpoint, text=text, **small)
    found = search(parent, kv_heads=2, refine=Outputs(), fill_slots=True, max_evaluations=200)
    plain = search(parent, kv_heads=2, refine=Outputs(), max_evaluations=200)
    assert found.document.has_second_reads and found.grouping == plain.grouping and found.kl < plain.kl
    assert (found.save(tmp_path / "saved") / "grouping.json").read_text().count("second_reads") == 2
    with pytest.raises(UserError, match="save it, and load the checkpoint"), found.converted():
        pass
    whole = load(parent.model, text=text, tokenizer=parent.tokenizer, **small)
    with pytest.raises(UserError, match="load a folder"):
        search(whole, kv_heads=2, fill_slots=True)
