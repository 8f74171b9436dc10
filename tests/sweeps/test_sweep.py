"""A study from its file to its best trial, in one process."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from copy import deepcopy
from pathlib import Path
from typing import Any

import optuna
import pandas as pd
import pytest
import yaml
from optuna.artifacts import FileSystemArtifactStore, download_artifact, get_all_artifact_meta
from optuna.trial import TrialState

from gqasearch.config import build_config
from gqasearch.errors import UserError
from gqasearch.grouping_document import read_grouping
from gqasearch.run import RunFolder, run
from gqasearch.steps import ProcessCache, Workspace
from gqasearch.sweeps.export import best_and_newest
from gqasearch.sweeps.optimisers import quiet_optuna
from gqasearch.sweeps.storage import storage_at
from gqasearch.sweeps.study import MEASURED_ON, Place, Standing
from gqasearch.sweeps.sweep_worker import Worker
from tests.sweeps.helpers import call, finished, started, write
from tests.tiny_encoders import save_encoder, tiny_encoder


def test_trials_are_runs_whose_groupings_are_artifacts(values: dict[str, Any], tmp_path: Path) -> None:
    study, place = finished(tmp_path, values)
    assert Standing.of(study).complete == 4 and len(study.trials) == 4
    for trial in study.trials:
        folder = RunFolder(tmp_path / "out" / f"trial-{trial.number:04}")
        assert trial.user_attrs["folder"] == str(folder.path) and trial.user_attrs["host"]
        assert folder.read_config().method_parameters["population"] == trial.params["method.population"]
        metrics = json.loads(folder.metrics.read_text())
        assert metrics["results"]["converted"]["kl"] == trial.value == trial.user_attrs["measured"]["kl"]
        assert list(metrics["results"]) == ["converted"] and not folder.model.exists()
        (artifact,) = get_all_artifact_meta(trial, storage=place.storage.rdb)
        copy = tmp_path / f"{trial.number}.json"
        download_artifact(
            artifact_store=FileSystemArtifactStore(str(place.artifacts)),
            file_path=str(copy),
            artifact_id=artifact.artifact_id,
        )
        assert read_grouping(copy) == read_grouping(folder.grouping)


def test_trials_are_compared_on_text_that_nothing_else_reads(values: dict[str, Any], tmp_path: Path) -> None:
    """Validation, search and held-out text have no block in common; the best is reported on the held-out one."""
    study, _ = finished(tmp_path, {**values, "trials": 1})
    folder = RunFolder(tmp_path / "out" / "trial-0000")
    trial = Workspace(folder.read_config())
    own = Workspace(build_config({**folder.read_config().model_dump(), "evaluation_part": "held-out"}))
    assert (trial.blocks("search").ids == own.blocks("search").ids).all()
    texts = [trial.blocks("calibration"), trial.blocks("search"), trial.blocks("evaluation"), own.blocks("evaluation")]
    rows = [{tuple(row) for row in blocks.ids.tolist()} for blocks in texts]
    assert sum(map(len, rows)) == len(set().union(*rows))
    metrics = json.loads(folder.metrics.read_text())
    assert "for validation" in metrics["texts"]["reported"]["source"]
    assert any("held-out" in warning for warning in metrics["warnings"])
    found = json.loads(call("best", tmp_path / "tiny.yaml", "--output-dir", tmp_path / "out", "--json").stdout)["best"]
    alone = run(build_config({**found[0]["config"], "materialize": False}), tmp_path / "alone")
    reported = json.loads(alone.metrics.read_text())
    assert reported["results"]["converted"]["kl"] == pytest.approx(found[0]["held_out"]["kl"], rel=1e-12)
    assert found[0]["validation"]["kl"] == study.best_value != found[0]["held_out"]["kl"]
    assert reported["texts"]["reported"]["fingerprint"] != metrics["texts"]["reported"]["fingerprint"]
    assert read_grouping(alone.grouping) == read_grouping(folder.grouping)


def test_too_little_text_for_validation_is_refused(values: dict[str, Any], tmp_path: Path) -> None:
    _, place = started(tmp_path, {**values, "validation": {"tokens": 6000}})
    with pytest.raises(UserError, match="too few for 300 to search on and 6000 for validation"):
        Worker(place).run()


def test_an_objective_that_the_model_has_no_figure_of_is_refused_before_any_trial(
    values: dict[str, Any], tmp_path: Path
) -> None:
    model = save_encoder(tiny_encoder("bert-headless"), tmp_path / "model")
    settings = {**values["settings"], "model": str(model)}
    with pytest.raises(UserError, match=r"objective kl is not measured of .*model; hidden-error, kv-ratio, .* are"):
        finished(tmp_path, {**values, "settings": settings})
    assert not list((tmp_path / "out").glob("trial-*"))


def test_the_same_file_joins_and_another_is_refused(values: dict[str, Any], tmp_path: Path) -> None:
    study, _ = finished(tmp_path, {**values, "trials": 2})
    draws = [trial.params for trial in study.trials]
    study, _ = finished(tmp_path, {**values, "trials": 3})  # how many is no part of what makes trials comparable
    assert [trial.params for trial in study.trials][:2] == draws and len(study.trials) == 3
    other = deepcopy(values)
    other["parameters"]["method.population"]["high"] = 13
    other["settings"]["kv_ratio"] = 0.25
    with pytest.raises(UserError, match="begun with another file") as caught:
        started(tmp_path, other)
    assert "parameters.method.population.high was 12, is 13" in str(caught.value)
    assert "settings.kv_ratio was 'absent', is 0.25" in str(caught.value)
    with pytest.raises(UserError, match="holds trials of study tiny"):
        started(tmp_path, values, study_name="other")


def test_the_command_runs_a_sweep_and_tells_the_best(
    values: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a worker in this process; those of their own are in test_kill."""

    def launch(study: optuna.Study, place: Place, workers: int, watch: Callable[[Standing], object]) -> Standing:
        assert workers == 3
        Worker(place).run()
        watch(Standing.of(study))
        return Standing.of(study)

    monkeypatch.setattr("gqasearch.sweeps.launch.launch", launch)
    out, database = tmp_path / "out", f"sqlite:///{tmp_path}/else/where.db"
    monkeypatch.setenv("GQASEARCH_STORAGE", database)
    command = (write(tmp_path, values), "--output-dir", out, "--workers", "3", "--trials", "2", "--json")
    record = json.loads(call(*command).stdout)
    assert (
        record["trials"]["complete"] == 2 and record["storage"] == database and (tmp_path / "else/where.db").is_file()
    )
    assert (out / "report.html").is_file() and not (out / "study.db").exists()
    shown = call("--output-dir", out, "--workers", "3", tmp_path / "tiny.yaml")  # the file's 4 are more than 2
    assert "4 trials wanted: 4 complete" in shown.stdout and shown.stdout.count("  best  ") == 1
    assert started(tmp_path, {**values, "trials": 3})[0].user_attrs["trials"] == 4


def test_a_seed_draws_the_same_trials_in_one_go_or_in_two(values: dict[str, Any], tmp_path: Path) -> None:
    """And a restart does not draw those of the first start again."""
    (tmp_path / "b").mkdir()
    at_once, _ = finished(tmp_path, values)
    finished(tmp_path / "b", {**values, "trials": 2})
    in_two, _ = finished(tmp_path / "b", values)
    drawn = [[trial.params["method.population"] for trial in study.trials] for study in (at_once, in_two)]
    assert drawn[0] == drawn[1] and len(set(drawn[0])) > 1


def test_another_text_or_model_on_another_machine_is_refused(values: dict[str, Any], tmp_path: Path) -> None:
    study, _ = finished(tmp_path, {**values, "trials": 1})
    study.set_user_attr(MEASURED_ON, {**study.user_attrs[MEASURED_ON], "validation text": "sha256:other"})
    with pytest.raises(UserError, match="the validation text on this machine differ"):
        finished(tmp_path, {**values, "trials": 2})


def test_bad_trials_are_stopped_early(values: dict[str, Any], tmp_path: Path) -> None:
    values["pruner"] = {"name": "threshold", "upper": 1e-9, "n_warmup_steps": 1}
    values["settings"]["method.patience"] = 50
    study, _ = finished(tmp_path, values)
    assert [trial.state for trial in study.trials] == [TrialState.PRUNED] * 4
    for trial in study.trials:
        assert list(trial.intermediate_values) == [0, 1]
        history = (tmp_path / "out" / f"trial-{trial.number:04}" / "history.jsonl").read_text().splitlines()
        assert [json.loads(line)["best"][0] for line in history] == list(trial.intermediate_values.values())


def test_two_objectives_have_a_front(values: dict[str, Any], tmp_path: Path) -> None:
    values |= {"objectives": ["kl", "kv-ratio"], "trials": 6, "sampler": "nsga-ii"}
    values["parameters"] = {"kv_heads": [1, 2, 3, 5], **values["parameters"]}
    study, _ = finished(tmp_path, values)
    arguments = (tmp_path / "tiny.yaml", "--output-dir", tmp_path / "out")
    found = json.loads(call("best", *arguments, "--json", "--no-held-out").stdout)["best"]
    points = [trial.values for trial in study.trials]
    front = [p for p in points if not any(q != p and q[0] <= p[0] and q[1] <= p[1] for q in points)]
    assert sorted([*row["validation"].values()] for row in found) == sorted(front)
    result = call("best", *arguments, "--yaml")
    assert (result.exit_code == 2) == (len(front) > 1)
    one = call("best", *arguments, "--yaml", "--trial", "2")
    assert yaml.safe_load(one.stdout)["kv_heads"] == study.trials[2].params["kv_heads"]
    assert call("report", *arguments).exit_code == 0
    assert "Pareto front" in (tmp_path / "out" / "report.html").read_text()


@pytest.mark.nightly
def test_conditions_and_brute_force_try_everything_once(values: dict[str, Any], tmp_path: Path) -> None:
    values |= {"trials": 50, "sampler": "brute-force", "max_failed": 3}
    values["parameters"] = {
        "method": ["evolution", "hill-climb"],
        "method.population": {"type": "int", "low": 4, "high": 8, "step": 4, "when": {"method": "evolution"}},
        "method.restarts": {"type": "categorical", "choices": [2, 3], "when": {"method": ["hill-climb"]}},
    }
    del values["settings"]["method.generations"]
    study, _ = finished(tmp_path, values)
    drawn = sorted(json.dumps(trial.params, sort_keys=True) for trial in study.trials)
    assert len(drawn) == 4 == len(set(drawn)) and Standing.of(study).is_done


def test_trials_that_go_wrong_say_why_and_end_a_hopeless_sweep(values: dict[str, Any], tmp_path: Path) -> None:
    values["max_failed"] = 2
    values["settings"]["kv_heads"] = 7  # the model has 6
    study, place = started(tmp_path, values)
    with pytest.raises(UserError, match="3 trials failed, more than max_failed"):
        Worker(place).run()
    assert [trial.state for trial in study.trials] == [TrialState.FAIL] * 3
    status = call("status", tmp_path / "tiny.yaml", "--output-dir", tmp_path / "out")
    assert "trial 2 failed" in status.output


@pytest.mark.nightly
def test_export_and_status_tell_what_is_in_the_study(values: dict[str, Any], tmp_path: Path) -> None:
    study, _ = finished(tmp_path, values)
    arguments = (tmp_path / "tiny.yaml", "--output-dir", tmp_path / "out")
    table = pd.read_csv(io.StringIO(call("export", *arguments).stdout))
    assert table["kl"].tolist() == [trial.value for trial in study.trials]
    assert table["set.method.population"].tolist() == [trial.params["method.population"] for trial in study.trials]
    assert (table["measured.kv-ratio"] == 0.5).all() and (table["state"] == "complete").all()
    rows = json.loads(call("export", *arguments, "--format", "json").stdout)
    assert [row["kl"] for row in rows] == [trial.value for trial in study.trials]
    assert call("export", *arguments, "--output", tmp_path / "tiny.yaml").exit_code == 2
    record = json.loads(call("status", *arguments, "--json").stdout)
    assert record["trials"] == {"complete": 4, "pruned": 0, "running": 0, "waiting": 0, "failed": 0}
    assert record["best"][0]["trial"] == study.best_trial.number and record["hosts"][0]["complete"] == 4
    lines = [line.split() for line in call("status", *arguments).stdout.splitlines() if "trial-" in line]
    assert [line[-1] for line in lines] == [f"trial-{trial.number:04}" for trial in study.trials]
    assert [line[1] for line in lines].index("best") == study.best_trial.number
    drawn = [f"method.population={trial.params['method.population']}" for trial in study.trials]
    assert [line[3:5] for line in lines] == [["0.5", words] for words in drawn]


def test_of_many_trials_the_best_and_the_newest_are_shown() -> None:
    frame = pd.DataFrame({"number": range(300), "kl": [None if n % 7 == 0 else abs(n - 100.5) for n in range(300)]})
    shown = best_and_newest(frame, "kl", [50], 7)
    assert shown["number"].tolist() == [50, 99, 100, 101, 297, 298, 299]
    assert best_and_newest(frame, "kl", [50], 300) is frame


def test_settings_of_the_best_trial_are_a_configuration(values: dict[str, Any], tmp_path: Path) -> None:
    study, _ = finished(tmp_path, values)
    printed = call("best", tmp_path / "tiny.yaml", "--output-dir", tmp_path / "out", "--yaml").stdout
    config = build_config(yaml.safe_load(printed))
    assert config.method_parameters["population"] == study.best_params["method.population"]
    assert config.materialize and config.evaluation_part == "held-out" and config.evaluation_tokens == 600


def test_seconds_are_those_of_a_run_alone(values: dict[str, Any], tmp_path: Path) -> None:
    """What one trial computed is not given to the next where time is measured."""
    _, place = started(tmp_path, {**values, "objectives": ["seconds"], "trials": 1})
    worker = Worker(place)
    kept: list[set[str]] = []
    forget = worker.cache.forget
    worker.cache.forget = lambda *names: (forget(*names), kept.append(set(worker.cache._kinds)))[0]  # type: ignore[method-assign]
    worker.run()
    (kinds,) = kept
    assert "parent" in kinds and not kinds & {ProcessCache.RUNNING, ProcessCache.TABLES}
    assert ProcessCache.TABLES in worker.cache._kinds


@pytest.mark.parametrize(("directions", "trials"), [(["maximize"], 0), (["minimize"] * 2, 0), (["minimize"], 1)])
def test_another_programs_study_is_left_alone(
    values: dict[str, Any], tmp_path: Path, directions: list[str], trials: int
) -> None:
    url = f"sqlite:///{tmp_path / 'shared.db'}"
    with quiet_optuna():
        theirs = optuna.create_study(storage=url, study_name="tiny", directions=directions)
        theirs.optimize(lambda trial: trial.suggest_float("x", 0, 1), n_trials=trials)
    with pytest.raises(UserError, match="was not made by gqasearch sweep; give another --study-name"):
        started(tmp_path, values, storage=url)
    assert theirs.user_attrs == {}


@pytest.mark.parametrize("name", ["which?", "%41 and 50%", "a#b {x} é"])
def test_a_study_lies_in_its_folder_whatever_that_is_called(name: str, values: dict[str, Any], tmp_path: Path) -> None:
    """Letters that mean something in a URL: `?` and `%41` sent the study to another file, where nobody found it."""
    _, place = started(tmp_path, values, output_dir=tmp_path / name)
    assert (tmp_path / name / "study.db").is_file()
    assert {path.name for path in tmp_path.iterdir()} == {"tiny.yaml", name}
    again = storage_at(place.storage.shown)  # as a user copies it from `sweep status`
    assert again.file == tmp_path / name / "study.db" and again.lock().__enter__() is None
    _, joined = started(tmp_path, values, storage=place.storage.shown, output_dir=tmp_path / name)
    assert joined == place


def test_a_study_that_is_not_there(values: dict[str, Any], tmp_path: Path) -> None:
    file = write(tmp_path, values)
    nothing = call("status", file, "--output-dir", tmp_path / "none")
    assert nothing.exit_code == 2 and "no study there" in nothing.stderr and not (tmp_path / "none").exists()
    started(tmp_path, values)
    wrong = call("status", file, "--output-dir", tmp_path / "out", "--study-name", "tinny")
    assert "did you mean 'tiny'" in wrong.stderr
    early = call("best", file, "--output-dir", tmp_path / "out")
    assert "no complete trial yet" in early.stderr
