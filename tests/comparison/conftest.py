"""One finished comparison of a tiny model, shared by the tests."""

from __future__ import annotations

from typing import Any

import pytest

from gqasearch.comparison import ComparisonFolder, build_comparison, compare
from tests.samples import text_file
from tests.tiny_models import save_checkpoint, tiny_model

FITNESS = ("weight-sharing-error", "merge-error", "kl")


@pytest.fixture(scope="session")
def values(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Settings of a comparison that takes seconds."""
    model = save_checkpoint(tiny_model("llama"), tmp_path_factory.mktemp("model"))
    run = {
        "model": str(model),
        "calibration_text": str(text_file(tmp_path_factory.mktemp("text"))),
        "refine": "none",
        "block_length": 32,
        "calibration_tokens": 400,
        "search_tokens": 128,
        "evaluation_tokens": 300,
    }
    return {"fitness": FITNESS, "seeds": 2, "sample": 6, "top": 2, "evaluations": 40, "sample_tokens": 200, "run": run}


@pytest.fixture(scope="session")
def finished(values: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> ComparisonFolder:
    folder = ComparisonFolder(tmp_path_factory.mktemp("whole") / "comparison")
    compare(build_comparison(values), folder.path)
    return folder
