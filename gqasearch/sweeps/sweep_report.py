"""One self-contained page on a sweep."""

from __future__ import annotations

import datetime as dt
import math
from typing import Any

import optuna
import yaml
from optuna.trial import TrialState

from gqasearch.errors import UserError
from gqasearch.files import write_file
from gqasearch.reporting import ParetoFront
from gqasearch.reporting.html import load_template, vector
from gqasearch.reporting.plots import pareto_figure
from gqasearch.sweeps.best import Best, best_trials, known_held_out
from gqasearch.sweeps.definition import Sweep
from gqasearch.sweeps.export import trials_frame
from gqasearch.sweeps.figures import complete_trials, history_figure, importance_figure, importances, slices_figure
from gqasearch.sweeps.study import ERROR, Place, Standing


def write_sweep_report(study: optuna.Study, sweep: Sweep, place: Place) -> None:
    """Write ``report.html``. Raises ``UserError`` where no trial is complete."""
    write_file(place.report, render_sweep_report(study, sweep, place), overwrite=True)


def render_sweep_report(study: optuna.Study, sweep: Sweep, place: Place) -> str:
    """The page as text; all that comes from the user or the database is escaped."""
    trials = complete_trials(study)
    if not trials:
        raise UserError(f"study {study.study_name} has no complete trial yet")
    best = best_trials(study, sweep)
    shares = importances(study, sweep)
    objectives = ", ".join(sweep.objectives)
    return load_template("sweep.html.j2").render(
        study=study.study_name,
        sweep=sweep,
        standing=Standing.of(study),
        best=[_row(one, place) for one in best],
        history=vector(history_figure(study, sweep), f"{objectives} of every trial, and the best so far"),
        importance=vector(importance_figure(shares, sweep), "Importance of every parameter") if all(shares) else None,
        slices=vector(slices_figure(study, sweep), f"{sweep.objectives[0]} against every parameter"),
        front=_front(sweep, best, trials),
        trials=_table(study, sweep),
        failures=[t for t in study.get_trials(deepcopy=False) if t.state == TrialState.FAIL and ERROR in t.user_attrs],
        error=ERROR,
        definition=yaml.safe_dump(sweep.definition(), sort_keys=False),
        written=dt.datetime.now(dt.UTC).strftime("%Y-%m-%d %H:%M UTC"),
    )


def _row(best: Best, place: Place) -> dict[str, Any]:
    return {
        "number": best.number,
        "values": [f"{value:.5g}" for value in best.values.values()],
        "parameters": ", ".join(f"{name} = {_short(value)}" for name, value in best.parameters.items()),
        "held_out": {name: f"{value:.5g}" for name, value in (known_held_out(best, place) or {}).items()},
    }


def _front(sweep: Sweep, best: list[Best], trials: list[optuna.trial.FrozenTrial]) -> Any:
    if len(sweep.objectives) < 2:
        return None
    numbers = {one.number for one in best}
    others = tuple(tuple(trial.values) for trial in trials if trial.number not in numbers)
    front = ParetoFront(sweep.objectives, tuple(tuple(one.values.values()) for one in best), dominated=others)
    return vector(pareto_figure(front), f"Trials that no other beats in {' and '.join(sweep.objectives)}")


def _table(study: optuna.Study, sweep: Sweep) -> dict[str, Any]:
    frame = trials_frame(study, sweep)
    columns = ["number", "state", *sweep.objectives, *(f"set.{name}" for name in sweep.parameters), "seconds_taken"]
    return {
        "headers": [column.removeprefix("set.").replace("_", " ") for column in columns],
        "rows": [[_short(value) for value in row] for row in frame[columns].astype(object).to_numpy().tolist()],
    }


def _short(value: Any) -> str:
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return ""
    return f"{value:.4g}" if isinstance(value, float) else str(value)
