"""The best trials of a study, their settings, and their figures on the held-out text."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import optuna
from optuna.trial import FrozenTrial, TrialState

from gqasearch.config import RunConfig
from gqasearch.errors import UserError
from gqasearch.files import read_json
from gqasearch.run import RunFolder, run
from gqasearch.steps import ProcessCache, Progress
from gqasearch.steps.measure import BASELINE, CONVERTED
from gqasearch.sweeps.definition import Sweep
from gqasearch.sweeps.study import HOST, Place


@dataclass(frozen=True)
class Best:
    """A trial that no other beats. ``values``: objective -> value, on the validation text."""

    number: int
    values: dict[str, float]
    parameters: dict[str, Any]
    config: RunConfig
    host: str
    folder: Path

    @classmethod
    def of(cls, trial: FrozenTrial, sweep: Sweep) -> Best:
        values = dict(zip(sweep.objectives, trial.values, strict=True))
        attributes = trial.user_attrs
        parameters = dict(trial.params)
        config = sweep.final_config(parameters)
        return cls(trial.number, values, parameters, config, attributes["host"], Path(attributes["folder"]))


def best_trials(study: optuna.Study, sweep: Sweep, number: int | None = None) -> list[Best]:
    """The best trial, or the Pareto front ordered by the first objective; or the complete trial of this number."""
    complete = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
    if not complete:
        raise UserError(f"study {study.study_name} has no complete trial yet")
    if number is not None:
        chosen = [trial for trial in complete if trial.number == number]
        if not chosen:
            raise UserError(f"study {study.study_name} has no complete trial {number}")
    elif len(sweep.objectives) == 1:
        chosen = [study.best_trial]
    else:
        chosen = sorted(study.best_trials, key=lambda trial: (*trial.values, trial.number))
    return [Best.of(trial, sweep) for trial in chosen]


def held_out(best: Best, place: Place, cache: ProcessCache, progress: Progress | None = None) -> dict[str, Any]:
    """``metrics.json`` of the trial's model on the held-out text, measured once, in ``best/trial-0007``.

    What the trial searched is taken from its folder if that is here; else the search is done again.
    """
    config = best.config.model_copy(update={"materialize": False})
    folder = RunFolder(place.output_dir / "best" / f"trial-{best.number:04}")
    if not folder.config.is_file():
        _take_search(best, folder, config)
    return read_json(run(config, folder.path, progress, cache).metrics)


def _take_search(best: Best, folder: RunFolder, config: RunConfig) -> None:
    """The same search with the same seed: only what is measured differs, and on which text."""
    trial = RunFolder(best.folder)
    if best.host != HOST or not trial.grouping.is_file():
        return
    own, its = config.model_dump(mode="json"), trial.read_config().model_dump(mode="json")
    measured = {"evaluation_part", "evaluation_text", "evaluation_tokens", "baseline", "materialize", "refine"}
    if any(own[name] != its[name] for name in own.keys() - measured):
        return
    if config.refine is None:
        config = config.model_copy(update={"refine": its["refine"]})
    folder.open(config)
    for old, new in (
        (trial.history, folder.history),
        (trial.state, folder.state),
        (trial.pareto, folder.pareto),
        (trial.grouping, folder.grouping),
    ):
        if old.is_file():
            shutil.copyfile(old, new)


def held_out_figures(metrics: dict[str, Any]) -> dict[str, float]:
    """What a table of held-out results shows."""
    mine, parent = metrics["results"][CONVERTED], metrics["parent"]
    found = {"kl": mine["kl"], "perplexity": mine["perplexity"], "parent perplexity": parent["perplexity"]}
    if BASELINE in metrics["results"]:
        found["kl of neighbour, mean"] = metrics["results"][BASELINE]["kl"]
    return found


def known_held_out(best: Best, place: Place) -> dict[str, float] | None:
    """Those figures if they were measured before."""
    folder = RunFolder(place.output_dir / "best" / f"trial-{best.number:04}")
    return held_out_figures(read_json(folder.metrics)) if folder.metrics.is_file() else None
