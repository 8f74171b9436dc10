"""A study as tables."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Collection
from typing import Any

import optuna
import pandas as pd
from optuna.trial import TrialState

from gqasearch.sweeps.definition import Sweep
from gqasearch.sweeps.objectives import OBJECTIVES
from gqasearch.sweeps.study import ERROR, MEASURED


def trials_frame(study: optuna.Study, sweep: Sweep) -> pd.DataFrame:
    """A row per trial: number, state, objectives, parameters, all that was measured, where it ran, what went wrong.

    Objectives are columns by name, as every ``measured.NAME``; parameters are ``NAME`` as in the file, prefixed
    ``set.``; times are ISO, UTC offset unknown to Optuna's databases.
    """
    rows = []
    for trial in study.get_trials(deepcopy=False):
        attributes = trial.user_attrs
        measured = attributes.get(MEASURED, {})
        finished = trial.state == TrialState.COMPLETE and trial.values is not None
        values = dict(zip(sweep.objectives, trial.values, strict=True)) if finished else {}
        rows.append(
            {
                "number": trial.number,
                "state": trial.state.name.lower(),
                **{name: values.get(name) for name in sweep.objectives},
                **{f"set.{name}": trial.params.get(name) for name in sweep.parameters},
                **{f"measured.{name}": measured.get(name) for name in OBJECTIVES if name not in sweep.objectives},
                "generations_reported": len(trial.intermediate_values),
                "started": trial.datetime_start.isoformat() if trial.datetime_start else None,
                "seconds_taken": trial.duration.total_seconds() if trial.duration else None,
                "host": attributes.get("host"),
                "folder": attributes.get("folder"),
                "error": attributes.get(ERROR),
            }
        )
    return pd.DataFrame(rows)


def by_host(study: optuna.Study) -> list[dict[str, Any]]:
    """How many trials of every state each host has."""
    counts: Counter[tuple[str, str]] = Counter()
    for trial in study.get_trials(deepcopy=False):
        if trial.state != TrialState.WAITING:
            counts[str(trial.user_attrs.get("host", "unknown")), trial.state.name.lower()] += 1
    hosts = sorted({host for host, _ in counts})
    states = ("complete", "pruned", "running", "fail")
    return [{"host": host, **{state: counts[host, state] for state in states}} for host in hosts]


def best_and_newest(frame: pd.DataFrame, objective: str, best: Collection[int], count: int) -> pd.DataFrame:
    """At most ``count`` rows of ``trials_frame``: of the ``best`` numbers, then by turns the best that are left in
    the first ``objective`` and the newest.
    """
    if len(frame) <= count:
        return frame
    ranked = frame.dropna(subset=[objective]).sort_values([objective, "number"])["number"]
    newest = frame["number"].sort_values(ascending=False)
    turns = itertools.chain.from_iterable(itertools.zip_longest(ranked, newest))
    chosen = [number for number in dict.fromkeys([*best, *turns]) if number is not None][:count]
    return frame[frame["number"].isin(chosen)]
