"""The committed results of the ready sweeps are whole."""

from __future__ import annotations

import pandas as pd

from experiments.sweeps import survival
from experiments.sweeps.__main__ import READY, RESULTS, summary
from gqasearch.sweeps.definition import read_sweep


def test_every_ready_sweep_has_its_results() -> None:
    for name in READY:
        sweep = read_sweep(RESULTS.parent / f"{name}.yaml")
        rows = pd.read_csv(RESULTS / f"{name}.csv")
        assert (rows["state"] == "complete").sum() == sweep.trials
        assert {*sweep.objectives, *(f"set.{parameter}" for parameter in sweep.parameters)} <= set(rows.columns)
        reported = rows[rows["held-out kl"].notna()]
        assert all(reported[name].min() == rows[name].min() for name in sweep.objectives) and len(summary(rows)) >= 1


def test_no_trial_was_lost() -> None:
    rows = pd.read_csv(survival.RESULTS)
    assert rows["storage"].tolist() == ["postgresql+psycopg", "sqlite"]
    assert (rows["complete"] == 60).all() and (rows[["running", "waiting"]] == 0).all(axis=None)
    assert rows["in the same folder"].all()
