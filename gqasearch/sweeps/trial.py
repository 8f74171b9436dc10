"""One trial: an ordinary run in a folder of its own."""

from __future__ import annotations

import os
import traceback
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import optuna
from optuna.artifacts import FileSystemArtifactStore, upload_artifact
from optuna.storages import RetryHeartbeatStaleTrialCallback
from optuna.trial import FrozenTrial

from gqasearch.errors import UserError
from gqasearch.grouping import GroupingError
from gqasearch.run import RunFolder, RunListener, run
from gqasearch.steps import ProcessCache, Workspace
from gqasearch.sweeps.definition import Sweep
from gqasearch.sweeps.drawn_parameters import draw
from gqasearch.sweeps.objectives import measured, require_measurable
from gqasearch.sweeps.optimisers import quiet_optuna
from gqasearch.sweeps.study import ERROR, HOST, MEASURED, Place


class Pruning(RunListener):
    """Reports the best fitness of every generation, and stops the run where the pruner says so."""

    def __init__(self, study: optuna.Study, trial: optuna.Trial) -> None:
        self.trial = trial
        # A trial that is run again inherited what it reported.
        self.reported = set(study.get_trials(deepcopy=False)[trial.number].intermediate_values)

    def on_generation(self, record: Mapping[str, Any]) -> None:
        """Raises ``TrialPruned``."""
        generation = int(record["generation"])
        if generation in self.reported:
            return
        self.reported.add(generation)
        self.trial.report(float(record["best"][0]), generation)
        if self.trial.should_prune():
            raise optuna.TrialPruned(f"after generation {generation}")


def run_trial(study: optuna.Study, trial: optuna.Trial, sweep: Sweep, place: Place, cache: ProcessCache) -> list[float]:
    """Draw settings, run them, give the objectives. What goes wrong is written into the trial's user attributes."""
    try:
        config = sweep.trial_config(draw(trial, sweep.parameters))
        require_measurable(sweep.objectives, Workspace(config, cache=cache).source)
        folder = trial_folder(place.output_dir, study.get_trials(deepcopy=False)[trial.number])
        trial.set_user_attr("folder", str(folder.path.absolute()))
        trial.set_user_attr("host", HOST)
        trial.set_user_attr("pid", os.getpid())
        if "seconds" in sweep.objectives:  # what other trials computed would be free
            cache.forget(ProcessCache.RUNNING, ProcessCache.TABLES)
        listeners = (Pruning(study, trial),) if sweep.prunes else ()
        run(config, folder.path, cache=cache, listeners=listeners, report=False)
        values = measured(folder)
        trial.set_user_attr(MEASURED, values)
        place.artifacts.mkdir(exist_ok=True)
        store = FileSystemArtifactStore(str(place.artifacts))
        upload_artifact(artifact_store=store, file_path=str(folder.grouping), study_or_trial=trial)
        return [values[name] for name in sweep.objectives]
    except optuna.TrialPruned:
        raise
    except Exception as error:
        trial.set_user_attr(ERROR, f"{error}" if isinstance(error, UserError | GroupingError) else repr(error))
        if not isinstance(error, UserError | GroupingError):
            trial.set_user_attr("traceback", traceback.format_exc())
        raise


def trial_folder(output_dir: Path, trial: FrozenTrial) -> RunFolder:
    """``trial-0007``. A trial that is run again goes on in the folder of the first, if it is here and free."""
    with quiet_optuna():
        first = RetryHeartbeatStaleTrialCallback.retried_trial_number(trial)
    if first is not None:
        folder = RunFolder(output_dir / f"trial-{first:04}")
        try:
            folder.path.mkdir(parents=True, exist_ok=True)
            folder.acquire().release()
        except UserError:  # taken for dead, but still at work
            pass
        else:
            return folder
    return RunFolder(output_dir / f"trial-{trial.number:04}")
