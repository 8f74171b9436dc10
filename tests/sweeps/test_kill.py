"""Workers that are killed or interrupted in a trial: it is run again, none is lost, none stays RUNNING."""

from __future__ import annotations

import sqlite3
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from optuna.trial import TrialState

from experiments.sweeps.survival import KillOnce, runs_again
from gqasearch.run import RunFolder
from gqasearch.sweeps import launch as launching
from gqasearch.sweeps.study import Place, Standing
from gqasearch.sweeps.sweep_worker import Worker
from tests import forked
from tests.sweeps.helpers import finished, started

HEARTBEAT = {"interval": 1, "grace": 2}
LONGER = {"method": "random", "method_parameters": {"samples": 1000, "batch": 5}}  # a second or so


@pytest.fixture
def short_polls(monkeypatch: pytest.MonkeyPatch, nightly: bool) -> Iterator[None]:
    monkeypatch.setattr(launching, "POLL_SECONDS", 0.02)
    monkeypatch.setattr(launching, "RESTARTS", 0)  # the other worker has to do it
    with forked.for_spawned(nightly):
        yield


@pytest.fixture
def longer(values: dict[str, Any]) -> dict[str, Any]:
    del values["settings"]["method.generations"]
    values["settings"] |= LONGER
    values["parameters"] = {"seed": {"type": "int", "low": 0, "high": 1000}}
    return {**values, "trials": 4, "heartbeat": HEARTBEAT}


@pytest.mark.parametrize("kind", ["postgresql", "sqlite"])
def test_a_killed_workers_trial_is_run_again(
    longer: dict[str, Any], tmp_path: Path, short_polls: None, kind: str, request: pytest.FixtureRequest
) -> None:
    url = request.getfixturevalue("server") if kind == "postgresql" else None
    study, place = started(tmp_path, longer, storage=url)
    kill = KillOnce(study, after=1)
    standing = launching.launch(study, place, 2, kill)
    assert (standing.complete, standing.running, standing.waiting) == (4, 0, 0)
    assert standing.failed >= 1  # on a busy machine, a living one may have been silent too
    (number,) = kill.killed
    dead, again = study.trials[number], runs_again(study, number)[-1]
    assert dead.state == TrialState.FAIL
    assert again.state == TrialState.COMPLETE and again.params == dead.params
    assert again.user_attrs["folder"] == dead.user_attrs["folder"] == str(tmp_path / "out" / f"trial-{number:04}")
    complete = study.get_trials(states=(TrialState.COMPLETE,))
    folders = {trial.user_attrs["folder"] for trial in complete}
    assert len(folders) == 4 and all(RunFolder(Path(folder)).metrics.is_file() for folder in folders)
    place.storage.close()
    if url is not None:  # its password is in no file
        password = url.split(":")[2].split("@")[0].encode()
        assert not [p for p in tmp_path.rglob("*") if p.is_file() and password in p.read_bytes()]


def test_an_interrupted_trial_waits_and_goes_on(longer: dict[str, Any], tmp_path: Path, short_polls: None) -> None:
    study, place = started(tmp_path, longer)

    def interrupt(standing: Standing) -> None:
        folder = RunFolder(tmp_path / "out" / "trial-0001")
        if standing.complete >= 1 and folder.state.is_file() and not folder.grouping.is_file():
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        launching.launch(study, place, 1, interrupt)
    standing = Standing.of(study)
    assert (standing.complete, standing.running, standing.waiting, standing.failed) == (1, 0, 1, 1)
    history = (tmp_path / "out" / "trial-0001" / "history.jsonl").read_text().splitlines()
    study, _ = finished(tmp_path, longer)
    assert Standing.of(study).complete == 4 and len(study.trials) == 5
    assert study.trials[2].params == study.trials[1].params
    assert study.trials[2].user_attrs["folder"].endswith("trial-0001")
    whole = (tmp_path / "out" / "trial-0001" / "history.jsonl").read_text().splitlines()
    assert whole[0] == history[0], "the search began anew"  # its seconds are those of the first start


def killed_before_its_first_heartbeat(study: Any, place: Place) -> None:
    """What a worker leaves behind that was killed right after it drew a trial."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Heartbeat of storage")
        trial = study.ask()
    trial.suggest_int("seed", 0, 1000)
    with sqlite3.connect(place.output_dir / "study.db") as connection:
        assert connection.execute("SELECT COUNT(*) FROM trial_heartbeats").fetchone() == (0,)
    connection.close()


def test_a_trial_without_a_heartbeat_is_found(longer: dict[str, Any], tmp_path: Path) -> None:
    """Optuna's own recovery leaves these RUNNING for ever."""
    longer |= {"trials": 1, "heartbeat": {"interval": 1, "grace": 2}}
    longer["settings"]["method_parameters"] = {"samples": 2}
    study, place = started(tmp_path, longer)
    killed_before_its_first_heartbeat(study, place)
    Worker(place).run()
    assert [trial.state for trial in study.trials] == [TrialState.FAIL, TrialState.COMPLETE]
    assert study.trials[0].params == study.trials[1].params


def test_no_trial_is_begun_while_those_under_way_may_be_enough(longer: dict[str, Any], tmp_path: Path) -> None:
    longer["trials"] = 1
    longer["settings"]["method_parameters"] = {"samples": 2}
    study, place = started(tmp_path, longer)
    killed_before_its_first_heartbeat(study, place)
    worker = Worker(place)
    assert worker.step() == "wait" and len(study.trials) == 1
    study.tell(0, state=TrialState.FAIL)
    assert worker.step() == "ran" and worker.step() == "done" and len(study.trials) == 2
