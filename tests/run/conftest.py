"""A tiny checkpoint and a text, shared by the tests of whole runs."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.samples import text_file
from tests.tiny_models import save_checkpoint, tiny_model


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random Llama: 2 layers, 6 heads."""
    return save_checkpoint(tiny_model("llama"), tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="session")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """20,000 characters of words."""
    return text_file(tmp_path_factory.mktemp("text"))


@pytest.fixture
def settings(checkpoint: Path, text: Path) -> dict[str, object]:
    """Settings of a run that takes a second or two."""
    return {
        "model": str(checkpoint),
        "calibration_text": str(text),
        "block_length": 32,
        "calibration_tokens": 1000,
        "search_tokens": 300,
        "evaluation_tokens": 600,
    }
