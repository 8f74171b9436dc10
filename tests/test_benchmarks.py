"""The committed results are whole, and can be shown; a quick measurement of what is cheap runs."""

from __future__ import annotations

import pandas as pd
import pytest

from experiments.benchmarks import speed, splits
from experiments.benchmarks.instances import KINDS, Instance
from experiments.benchmarks.search import RESULTS, SECTIONS
from gqasearch.pairwise import pairwise_errors


@pytest.mark.parametrize("section", SECTIONS)
def test_committed_results_can_be_shown(section: str) -> None:
    rows = pd.read_csv(RESULTS / f"{section}.csv")
    table = SECTIONS[section][1](rows)
    assert len(table) and not table.columns.duplicated().any()


def test_bounds_of_the_committed_proofs_hold_at_the_values() -> None:
    rows = pd.read_csv(RESULTS / "proofs.csv")
    assert (rows["lower_bound"] <= rows["value"]).all() and len(rows) == 768
    assert (rows["proven"] == ((rows["value"] - rows["lower_bound"]) <= 1e-9 * rows["value"])).all()


@pytest.mark.parametrize("kind", KINDS[:2])
def test_instances_are_the_same_every_time(kind: str) -> None:
    instance = Instance(kind, 16, 4, True, 0)
    table = instance.distances()
    assert table.shape == (16, 16) and (table == table.T).all() and not table.diagonal().any()
    assert (Instance(kind, 16, 4, False, 1).distances() != table).any()
    assert instance.budget.smallest_group == instance.budget.largest == 4


def test_quick_measurements_run() -> None:
    assert speed.measure(True)["relative difference"][0] < 1e-12
    found = splits.measure(True)
    assert (found["worst_gap"] >= 0).all() and (found["hypervolume_ratio"] <= 1 + 1e-12).all()


def test_the_baseline_of_speed_computes_the_same_error() -> None:
    import numpy as np

    rng = np.random.default_rng(0)
    heads, labels = rng.normal(size=(6, 10)), np.array([0, 1, 0, 2, 2, 0])
    distances = ((heads[:, None] - heads) ** 2).sum(-1)
    assert speed.weight_sharing_error(heads, labels) == pytest.approx(pairwise_errors(distances, labels[None])[0])
