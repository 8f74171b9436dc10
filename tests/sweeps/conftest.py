"""A sweep of very short trials on a tiny model."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from experiments.sweeps import postgresql
from tests.run.conftest import checkpoint, text

__all__ = ["checkpoint", "text"]


@pytest.fixture
def values(checkpoint: Path, text: Path) -> dict[str, Any]:
    """A sweep file's content; a trial takes a tenth of a second."""
    return {
        "objectives": ["kl"],
        "trials": 4,
        "settings": {
            "model": str(checkpoint),
            "calibration_text": str(text),
            "block_length": 32,
            "calibration_tokens": 1000,
            "search_tokens": 300,
            "evaluation_tokens": 600,
            "merge": "mean",
            "objectives": ["weight-sharing-error"],
            "method.generations": 3,
        },
        "parameters": {"method.population": {"type": "int", "low": 4, "high": 12}},
        "sampler": {"name": "random", "seed": 1},
        "validation": {"tokens": 300},
    }


@pytest.fixture(scope="session")
def server() -> Iterator[str]:
    """URL of a PostgreSQL that belongs to the tests."""
    reason = postgresql.why_not()
    if reason is not None:
        pytest.skip(reason)
    with postgresql.server() as url:
        yield url
