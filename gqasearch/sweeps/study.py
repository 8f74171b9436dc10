"""A study in its storage: begun, joined by who brings the same file, and where it stands."""

from __future__ import annotations

import os
import socket
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import optuna
import yaml
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState

from gqasearch.config import read_config_file
from gqasearch.errors import UserError, unknown_name
from gqasearch.files import write_file
from gqasearch.sweeps.definition import Sweep, parse_sweep, read_sweep
from gqasearch.sweeps.drawn_parameters import count_draws
from gqasearch.sweeps.optimisers import EXHAUSTIVE, make_pruner, quiet_optuna
from gqasearch.sweeps.storage import Storage, sqlite_url, storage_at, storage_errors

# User attributes of the study, and of its trials.
DEFINITION, TRIALS, MAX_FAILED, MEASURED_ON = "definition", "trials", "max_failed", "measured_on"
ERROR, MEASURED = "error", "measured"
STORAGE_VARIABLE = "GQASEARCH_STORAGE"
DEFAULT_TRIALS = 50
PLACE = "sweep.yaml"  # in the output folder: which study it belongs to
HOST = socket.gethostname()


@dataclass(frozen=True)
class Place:
    """Where a sweep's files and its study are."""

    study_name: str
    storage: Storage
    output_dir: Path

    @property
    def artifacts(self) -> Path:
        return self.output_dir / "artifacts"

    @property
    def report(self) -> Path:
        return self.output_dir / "report.html"


def locate(
    file: Path | None, storage: str | None, study_name: str | None, output_dir: Path | None
) -> tuple[Sweep | None, Place]:
    """The sweep in ``file``, if there is one, and its place.

    Name: that given, the file's own, or the file's stem. Folder: ``sweeps/NAME``. Storage: that given,
    GQASEARCH_STORAGE of the environment, or SQLite in the folder.
    """
    sweep = None if file is None else read_sweep(file)
    name = study_name or (sweep.name if sweep else None) or (file.stem if file else None)
    if name is None:
        raise UserError("give the sweep's FILE.yaml, or --study-name")
    if output_dir is None and (Path(name).name != name or name == ".."):
        raise UserError(f"study name {name!r} is no name of a folder in sweeps/; give --output-dir too")
    folder = output_dir or Path("sweeps") / name
    url = storage or os.environ.get(STORAGE_VARIABLE) or sqlite_url(folder / "study.db")
    return sweep, Place(name, storage_at(url, sweep.heartbeat if sweep else None), folder)


def begin(sweep: Sweep, place: Place, trials: int | None) -> optuna.Study:
    """Make the study, or join it; refuses another definition or another study's folder, naming what differs."""
    _mark(place)
    directions = [StudyDirection.MINIMIZE] * len(sweep.objectives)
    with storage_errors(place.storage.url), place.storage.lock(), quiet_optuna():
        study = optuna.create_study(
            storage=place.storage.rdb,
            study_name=place.study_name,
            directions=directions,
            load_if_exists=True,
            pruner=make_pruner(sweep.pruner.name, sweep.pruner.parameters),
        )
        known = study.user_attrs
        if DEFINITION in known:
            _refuse_other(place, known[DEFINITION], sweep.definition())
        elif study.get_trials(deepcopy=False) or study.directions != directions:  # else: killed when it had begun
            raise UserError(
                f"study {place.study_name} in {place.storage.shown} was not made by gqasearch sweep; "
                "give another --study-name"
            )
        else:
            study.set_user_attr(DEFINITION, sweep.definition())
            study.set_metric_names(list(sweep.objectives))
        # A machine that joins without --trials must not take back those that another asked for.
        wanted = trials or max(sweep.trials or 0, known.get(TRIALS, 0)) or DEFAULT_TRIALS
        if sweep.sampler.name == EXHAUSTIVE:
            wanted = min(wanted, count_draws(sweep.parameters))
        for name, value in ((TRIALS, wanted), (MAX_FAILED, sweep.max_failed)):
            if known.get(name) != value:
                study.set_user_attr(name, value)
    return study


def load(place: Place) -> tuple[optuna.Study, Sweep]:
    """A study that is there, and what it was begun with."""
    if place.storage.file is not None and not place.storage.file.is_file():
        raise UserError(
            f"{place.storage.file}: no study there; start it with gqasearch sweep FILE.yaml, or give --storage"
        )
    with storage_errors(place.storage.url), quiet_optuna():
        names = optuna.get_all_study_names(place.storage.rdb)
        if place.study_name not in names:
            raise unknown_name(f"study in {place.storage.shown}:", place.study_name, names)
        study = optuna.load_study(study_name=place.study_name, storage=place.storage.rdb)
        if DEFINITION not in study.user_attrs:
            raise UserError(f"study {place.study_name} was not made by gqasearch sweep")
        sweep = parse_sweep(study.user_attrs[DEFINITION])
        study.pruner = make_pruner(sweep.pruner.name, sweep.pruner.parameters)
    return study, sweep


def agree(study: optuna.Study, facts: Mapping[str, str]) -> None:
    """Refuse a machine whose model or text is another than that of the study's first worker. Hold the lock."""
    known = study.user_attrs.get(MEASURED_ON)
    if known is None:
        study.set_user_attr(MEASURED_ON, dict(facts))
        return
    differ = [name for name, value in facts.items() if known.get(name) != value]
    if differ:
        raise UserError(
            f"study {study.study_name}: the {' and the '.join(differ)} on this machine differ from what its trials "
            "were measured on, so figures could not be compared (embedded text is that of your Python's version)"
        )


def _refuse_other(place: Place, before: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    old, new = _flat(before), _flat(now)
    names = [name for name in {**old, **new} if old.get(name) != new.get(name)]
    if names:
        absent = "absent"
        changes = [f"{name} was {old.get(name, absent)!r}, is {new.get(name, absent)!r}" for name in names]
        raise UserError(
            f"study {place.study_name} in {place.storage.shown} was begun with another file: {'; '.join(changes)}. "
            "Give another --study-name"
        )


def _flat(value: Any, prefix: str = "") -> dict[str, Any]:
    if not isinstance(value, Mapping) or not value:
        return {prefix: value}
    return {
        key: found
        for name, inner in value.items()
        for key, found in _flat(inner, f"{prefix}.{name}" if prefix else str(name)).items()
    }


def _mark(place: Place) -> None:
    """Make the folder this study's, or refuse one that is another's."""
    path = place.output_dir / PLACE
    if path.is_file():
        other = read_config_file(path).get("study")
        if other != place.study_name:
            raise UserError(f"{place.output_dir} holds trials of study {other}; give another --output-dir")
        return
    place.output_dir.mkdir(parents=True, exist_ok=True)
    write_file(path, yaml.safe_dump({"study": place.study_name}), overwrite=True)


@dataclass(frozen=True)
class Standing:
    """Trials by state. ``wrong``: failed for a reason of their own, and not because their worker died."""

    wanted: int
    complete: int
    pruned: int
    running: int
    waiting: int
    failed: int
    wrong: tuple[FrozenTrial, ...]
    exhaustive: bool
    max_failed: int

    @classmethod
    def of(cls, study: optuna.Study) -> Standing:
        trials, known = study.get_trials(deepcopy=False), study.user_attrs
        states = Counter(trial.state for trial in trials)
        return cls(
            wanted=int(known.get(TRIALS, DEFAULT_TRIALS)),
            complete=states[TrialState.COMPLETE],
            pruned=states[TrialState.PRUNED],
            running=states[TrialState.RUNNING],
            waiting=states[TrialState.WAITING],
            failed=states[TrialState.FAIL],
            wrong=tuple(trial for trial in trials if trial.state == TrialState.FAIL and ERROR in trial.user_attrs),
            exhaustive=known.get(DEFINITION, {}).get("sampler", {}).get("name") == EXHAUSTIVE,
            max_failed=int(known.get(MAX_FAILED, 0)),
        )

    @property
    def decided(self) -> int:
        """Trials that count: complete, or stopped because others are better."""
        return self.complete + self.pruned

    @property
    def is_done(self) -> bool:
        """Whether no further trial is wanted."""
        return self.decided + (len(self.wrong) if self.exhaustive else 0) >= self.wanted


def best_words(study: optuna.Study, sweep: Sweep, standing: Standing) -> str:
    """The best so far, for progress."""
    if not standing.complete:
        return ""
    if len(sweep.objectives) > 1:
        return f"{len(study.best_trials)} trials on the front"
    return f"best {sweep.objectives[0]} {study.best_value:.5g}, trial {study.best_trial.number}"
