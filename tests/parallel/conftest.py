"""The tiny checkpoint and text of the tests of whole runs, and its model bound to fitness functions in one process."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from gqasearch.budget import Budget
from gqasearch.config import build_config
from gqasearch.fitness import PreparedFitness
from gqasearch.grouping import Grouping
from gqasearch.parallel import Blueprint
from gqasearch.searching.operators import random_partition
from gqasearch.steps import Workspace
from gqasearch.steps.workers import blueprint_of
from tests.parallel.plugins import Faulty
from tests.run.conftest import checkpoint, settings, text

__all__ = ["checkpoint", "settings", "text"]


@pytest.fixture(scope="session")
def blueprint(checkpoint: Path, text: Path) -> Blueprint:
    """All built-in fitness functions that run the model; layers are refined after the merge."""
    names = ["kl", "perplexity", "healed-kl", "attention-output-error"]
    values = {"model": str(checkpoint), "calibration_text": str(text), "objectives": names, "refine": "outputs"}
    work = Workspace(build_config({**values, "block_length": 32, "calibration_tokens": 1000, "search_tokens": 3000}))
    plan = blueprint_of(work, 1)
    return replace(plan, fitnesses=plan.fitnesses | {"faulty": Faulty()})


@pytest.fixture(scope="session")
def alone(blueprint: Blueprint) -> dict[str, PreparedFitness]:
    """What one process computes."""
    return blueprint.prepare()


@pytest.fixture(scope="session")
def groupings() -> list[Grouping]:
    """24 different ones."""
    rng, budget = np.random.default_rng(0), Budget((3, 3), 6)
    found = (Grouping(tuple(random_partition(3, budget, rng) for _ in range(2))) for _ in range(40))
    return list(dict.fromkeys(found))[:24]
