"""Figures and the page, of a study that was made up: nothing is run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import optuna
import pytest

from gqasearch.sweeps.definition import Sweep, parse_sweep
from gqasearch.sweeps.drawn_parameters import draw
from gqasearch.sweeps.figures import history_figure, importances, slices_figure
from gqasearch.sweeps.optimisers import quiet_optuna
from gqasearch.sweeps.storage import Storage
from gqasearch.sweeps.study import ERROR, TRIALS, Place
from gqasearch.sweeps.sweep_report import write_sweep_report

PARAMETERS: dict[str, Any] = {
    "merge": ["mean", "optimal"],
    "seed": {"type": "int", "low": 0, "high": 1000},
    "refine.steps": {"type": "int", "low": 10, "high": 200, "log": True, "when": {"merge": "optimal"}},
}


def made_up(objectives: list[str], trials: int = 30) -> tuple[optuna.Study, Sweep]:
    """Merge decides everything; every seventh trial is pruned or, with several objectives, wrong."""
    sweep = parse_sweep({"objectives": objectives, "parameters": PARAMETERS})

    def objective(trial: optuna.Trial) -> list[float]:
        drawn = draw(trial, sweep.parameters)
        trial.set_user_attr("host", "here")
        trial.set_user_attr("folder", "nowhere")
        if trial.number % 7 == 3:
            if len(objectives) == 1:
                raise optuna.TrialPruned
            trial.set_user_attr(ERROR, "<script>alert(1)</script>")
            raise ValueError
        kl = {"mean": 1.2, "optimal": 0.2}[drawn["merge"]] * (1 + 1e-3 * (drawn["seed"] % 7))
        return [kl, 1 / kl][: len(objectives)]

    with quiet_optuna():
        sampler = optuna.samplers.RandomSampler(seed=1)
        directions = ["minimize"] * len(objectives)
        study = optuna.create_study(study_name="<b>made up</b>", directions=directions, sampler=sampler)
        study.optimize(objective, n_trials=trials, catch=(ValueError,))
    study.set_user_attr(TRIALS, trials)
    return study, sweep


@pytest.mark.parametrize("objectives", [["kl"], ["kl", "seconds"]], ids=len)
def test_the_page_stands_alone_and_shows_what_was_found(objectives: list[str], tmp_path: Path) -> None:
    study, sweep = made_up(objectives)
    place = Place("made up", Storage("sqlite:////nowhere/study.db"), tmp_path)
    write_sweep_report(study, sweep, place)
    page = place.report.read_text()
    assert "<script" not in page and "<b>made up" not in page and "&lt;b&gt;made up" in page
    assert "http" not in page.replace("http-equiv", "") and page.count("data:image/svg+xml") == 2 + len(objectives)
    assert ("Pareto front" in page) == (len(objectives) > 1) == ("What went wrong" in page)
    assert ("pruned of" in page) == (len(objectives) == 1)


def test_what_matters_has_the_largest_share_and_conditional_parameters_none() -> None:
    (shares,) = importances(*made_up(["kl"]))
    assert set(shares) == {"merge", "seed"} and shares["merge"] > shares["seed"]
    assert sum(shares.values()) == pytest.approx(1)
    assert importances(*made_up(["kl"], trials=8)) == [{}]


def test_figures_show_every_complete_trial_and_the_best_so_far() -> None:
    study, sweep = made_up(["kl"])
    values = [trial.value for trial in study.trials if trial.state == optuna.trial.TrialState.COMPLETE]
    (axes,) = history_figure(study, sweep).axes
    dots, best, pruned = axes.lines
    assert list(dots.get_ydata()) == values and min(values) == best.get_ydata()[-1]
    assert len(pruned.get_xdata()) == 30 - len(values)
    merge, seed, steps, *_ = slices_figure(study, sweep).axes
    assert [label.get_text() for label in merge.get_xticklabels()] == ["mean", "optimal"]
    assert len(seed.lines[0].get_xdata()) == len(values) > len(steps.lines[0].get_xdata())
    assert steps.get_xscale() == "log" and merge.get_xlabel() == "merge"
