"""A study of 60 trials whose worker is killed in the middle of one: on PostgreSQL and on SQLite, none is lost.

    python -m experiments.sweeps.survival [--trials 60]

Two workers; when a third of the trials are done, one worker is stopped in a trial, seen to be in it, and killed with
SIGKILL. The trial is found by its silence, failed, and run again in its folder.
"""

from __future__ import annotations

import argparse
import os
import signal
import tempfile
import time
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import optuna
import pandas as pd
import yaml
from optuna.storages import RetryHeartbeatStaleTrialCallback
from optuna.trial import FrozenTrial, TrialState

from experiments.sweeps import postgresql
from gqasearch.files import write_file
from gqasearch.sweeps.launch import launch
from gqasearch.sweeps.optimisers import quiet_optuna
from gqasearch.sweeps.study import Standing, begin, locate

RESULTS = Path(__file__).with_name("results") / "survival.csv"
SWEEP: dict[str, Any] = {
    "objectives": ["kl"],
    "settings": {
        "kv_ratio": 0.5,
        "fitness": "weight-sharing-error",
        "merge": "mean",
        "calibration_tokens": 4096,
    },
    "parameters": {
        "method.population": {"type": "int", "low": 4, "high": 16},
        "method.generations": {"type": "int", "low": 2, "high": 8},
    },
    "sampler": {"name": "tpe", "seed": 0},
    "validation": {"tokens": 1024},
    "heartbeat": {"interval": 1, "grace": 4},
}


@dataclass
class KillOnce:
    """Kills the worker of a running trial, once, when ``after`` trials are complete."""

    study: optuna.Study
    after: int
    killed: list[int] = field(default_factory=list)

    def __call__(self, standing: Standing) -> None:
        if self.killed or standing.complete < self.after:
            return
        running = self.study.get_trials(deepcopy=False, states=(TrialState.RUNNING,))
        for trial in (trial for trial in running if "pid" in trial.user_attrs):
            pid = int(trial.user_attrs["pid"])
            os.kill(pid, signal.SIGSTOP)  # so that it cannot end meanwhile
            time.sleep(0.05)
            if self.study.get_trials(deepcopy=False)[trial.number].state == TrialState.RUNNING:
                os.kill(pid, signal.SIGKILL)
                self.killed.append(trial.number)
                return
            os.kill(pid, signal.SIGCONT)


def runs_again(study: optuna.Study, number: int) -> list[FrozenTrial]:
    """The trials that ran trial ``number`` again."""
    with quiet_optuna():
        first = RetryHeartbeatStaleTrialCallback.retried_trial_number
        return [trial for trial in study.trials if first(trial) == number]


def survive(url: str | None, folder: Path, trials: int) -> dict[str, Any]:
    """Run the study on this storage (None: SQLite), kill, and tell what is in it at the end."""
    file = folder / "survival.yaml"
    file.write_text(yaml.safe_dump(SWEEP), encoding="utf-8")
    sweep, place = locate(file, url, None, folder / "out")
    if sweep is None:
        raise ValueError(f"{file} holds no sweep")
    study = begin(sweep, place, trials)
    kill, started = KillOnce(study, trials // 3), time.monotonic()
    standing = launch(study, place, 2, kill)
    (number,) = kill.killed
    (again,) = runs_again(study, number)
    seen = {
        "storage": place.storage.url.partition(":")[0],
        "complete": standing.complete,
        "running": standing.running,
        "waiting": standing.waiting,
        "failed": standing.failed,
        "killed in trial": number,
        "run again as": again.number,
        "in the same folder": again.user_attrs["folder"] == study.trials[number].user_attrs["folder"],
        "seconds": round(time.monotonic() - started, 1),
    }
    place.storage.close()
    return seen


def main() -> None:
    """Both storages; prints and writes what was seen."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--trials", type=int, default=60)
    trials = parser.parse_args().trials
    rows = []
    for server in (postgresql.server(), nullcontext(None)):
        with server as url, tempfile.TemporaryDirectory() as folder:
            rows.append(survive(url, Path(folder), trials))
            print(rows[-1], flush=True)
    table = pd.DataFrame(rows)
    RESULTS.parent.mkdir(exist_ok=True)
    write_file(RESULTS, table.to_csv(index=False), overwrite=True)
    print(table.to_string(index=False))


if __name__ == "__main__":
    main()
