"""Trackers show what history.jsonl says, each generation once, and never end a run."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from typer.testing import CliRunner

from gqasearch.cli.app import app
from gqasearch.config import build_config
from gqasearch.errors import UserError
from gqasearch.run import RunListener, RunStart, run
from gqasearch.tracking import TRACKERS, make_tracker, tracked
from gqasearch.tracking._base import Guarded, Tracker
from tests.matrix import nightly
from tests.samples import text_file
from tests.tiny_models import save_checkpoint, tiny_model

# As much of wandb as is called, with a server's memory in a file: steps of a run in order, older ones dropped.
FAKE_WANDB = """
import json
from pathlib import Path

SERVER = Path(__file__).with_name("server.json")

def init(*, project, name, id, resume, dir, config):
    assert resume == "allow" and Path(dir).is_dir()
    return Run(id, project, name, config)

class Run:
    def __init__(self, id, *words):
        self.id, self.stored = id, json.loads(SERVER.read_text()) if SERVER.is_file() else {}
        self.mine = self.stored.setdefault(id, {"words": words, "log": [], "summary": {}, "exits": []})
        self.step = self.mine["log"][-1][0] + 1 if self.mine["log"] else 0
        self.summary = self

    def log(self, values, step):
        self.mine["log"].append([step, values])
        SERVER.write_text(json.dumps(self.stored))

    def update(self, values):
        self.mine["summary"].update(values)

    def finish(self, exit_code):
        self.mine["exits"].append(exit_code)
        SERVER.write_text(json.dumps(self.stored))
"""


@pytest.fixture(scope="module")
def flags(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    folder = save_checkpoint(tiny_model("llama"), tmp_path_factory.mktemp("model"))
    text = text_file(tmp_path_factory.mktemp("text"))
    tokens = ["--calibration-tokens=600", "--search-tokens=200", "--evaluation-tokens=300", "--block-length=32"]
    method = ["--set=method.population=6", "--set=method.generations=4", "--set=method.patience=50"]
    return [f"--model={folder}", f"--calibration-text={text}", *tokens, *method, "--merge=mean", "--no-materialize"]


@pytest.fixture
def wandb_server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the stand-in for wandb keeps what it was sent."""
    (tmp_path / "fake").mkdir()
    (tmp_path / "fake" / "wandb.py").write_text(FAKE_WANDB)
    monkeypatch.syspath_prepend(str(tmp_path / "fake"))
    monkeypatch.delitem(sys.modules, "wandb", raising=False)
    monkeypatch.delenv("WANDB_PROJECT", raising=False)
    return tmp_path / "fake" / "server.json"


def search(flags: list[str], folder: Path, *more: str) -> Any:
    result = CliRunner().invoke(app, ["search", *flags, f"--output-dir={folder}", "--quiet", *more])
    assert result.exit_code == 0, result.output
    return result


def history_of(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "history.jsonl").read_text().splitlines()]


def events(folder: Path) -> dict[str, list[tuple[int, float]]]:
    """Every scalar that TensorBoard shows: tag -> (step, value)."""
    accumulator = EventAccumulator(str(folder / "tensorboard"), size_guidance={"scalars": 0})
    accumulator.Reload()
    return {
        tag: [(event.step, event.value) for event in accumulator.Scalars(tag)] for tag in accumulator.Tags()["scalars"]
    }


def single(history: list[dict[str, Any]], name: str, index: int | None = None) -> list[tuple[int, float]]:
    """A column of the history in single precision."""
    values = [line[name] if index is None else line[name][index] for line in history]
    return [(line["generation"], float(np.float32(value))) for line, value in zip(history, values, strict=True)]


def check_events(folder: Path) -> None:
    shown, history = events(folder), history_of(folder)
    assert len(history) >= 3
    assert shown["search/best/merge-error"] == single(history, "best", 0)
    for name in ("evaluations", "kv_heads_total", "seconds"):
        assert shown[f"search/{name}"] == single(history, name)
    metrics = json.loads((folder / "metrics.json").read_text())
    for subject, row in {"parent": metrics["parent"], **metrics["results"]}.items():
        value = float(np.float32(row["perplexity"]))
        assert shown[f"held-out/{subject}/perplexity"] == [(history[-1]["generation"], value)]


def test_tensorboard_shows_the_history(flags: list[str], tmp_path: Path) -> None:
    search(flags, tmp_path / "run", "--track=tensorboard", "--track=tensorboard")
    check_events(tmp_path / "run")
    (tmp_path / "run" / "report.html").unlink()
    search(flags, tmp_path / "run", "--track", "tensorboard")  # again on what is there already
    check_events(tmp_path / "run")
    search(flags, tmp_path / "plain")
    assert not (tmp_path / "plain" / "tensorboard").exists()
    grouping = (tmp_path / "plain" / "grouping.json").read_bytes()
    assert (tmp_path / "run" / "grouping.json").read_bytes() == grouping, "tracking decides nothing"
    assert (tmp_path / "run" / "config.yaml").read_bytes() == (tmp_path / "plain" / "config.yaml").read_bytes()


class Kill(RunListener):
    """Stops a run at one generation."""

    def __init__(self, generation: int) -> None:
        self.generation = generation

    def on_generation(self, record: Mapping[str, Any]) -> None:
        if record["generation"] == self.generation:
            raise KeyboardInterrupt


def settings_of(flags: list[str]) -> dict[str, Any]:
    words = dict(
        flag.removeprefix("--").split("=", 1) for flag in flags if "=" in flag and not flag.startswith("--set")
    )
    method = {"population": 6, "generations": 4, "patience": 50}
    values = {name.replace("-", "_"): int(value) if value.isdigit() else value for name, value in words.items()}
    return {**values, "materialize": False, "method_parameters": method}


@pytest.mark.parametrize("stops", [nightly(((0,),)), nightly(((2,),)), (1, 2)])
def test_stopped_and_resumed_every_generation_is_there_once(
    flags: list[str], tmp_path: Path, wandb_server: Path, stops: tuple[int, ...]
) -> None:
    config, folder = build_config(settings_of(flags)), tmp_path / "run"
    warnings: list[str] = []
    for stop in stops:
        with tracked(["tensorboard", "wandb"], warnings.append) as trackers, pytest.raises(KeyboardInterrupt):
            run(config, folder, listeners=[*trackers, Kill(stop)])
    with tracked(["tensorboard", "wandb"], warnings.append) as trackers:
        run(config, folder, listeners=trackers)
    assert warnings == []
    check_events(folder)
    (sent,) = json.loads(wandb_server.read_text()).values()
    assert [step for step, _ in sent["log"]] == [line["generation"] for line in history_of(folder)]
    assert sent["exits"] == [1] * len(stops) + [0]


def test_tracking_from_the_middle_of_a_run_tells_its_beginning_too(flags: list[str], tmp_path: Path) -> None:
    config, folder = build_config(settings_of(flags)), tmp_path / "run"
    with pytest.raises(KeyboardInterrupt):
        run(config, folder, listeners=[Kill(0)])
    with tracked(["tensorboard"], pytest.fail) as trackers:
        run(config, folder, listeners=trackers)
    check_events(folder)


def test_wandb_is_told_the_history(
    flags: list[str], tmp_path: Path, wandb_server: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    search(flags, tmp_path / "run", "--track", "wandb")
    ((key, sent),) = json.loads(wandb_server.read_text()).items()
    assert json.loads((tmp_path / "run" / "state" / "wandb.json").read_text()) == {"id": key}
    project, name, config = sent["words"]
    assert (project, name) == ("gqasearch", "run")
    assert config["method_parameters"]["generations"] == 4 and config["model"] == flags[0].removeprefix("--model=")
    history = history_of(tmp_path / "run")
    assert [[step, values["search/best/merge-error"]] for step, values in sent["log"]] == [
        [line["generation"], line["best"][0]] for line in history
    ]
    metrics = json.loads((tmp_path / "run" / "metrics.json").read_text())
    assert sent["summary"]["held-out/converted/kl"] == metrics["results"]["converted"]["kl"]
    assert not any("kl_blocks" in name for name in sent["summary"])
    monkeypatch.setenv("WANDB_PROJECT", "mine")
    search(flags, tmp_path / "other", "--track", "wandb")
    assert [run["words"][0] for run in json.loads(wandb_server.read_text()).values()] == ["gqasearch", "mine"]


@pytest.mark.parametrize(
    "broken", ["def init(**_):\n    raise OSError('no network')\n", "raise ImportError('no network')\n"]
)
def test_a_failing_tracker_is_told_once_and_loses_nothing(
    flags: list[str], tmp_path: Path, wandb_server: Path, broken: str
) -> None:
    (wandb_server.parent / "wandb.py").write_text(broken)
    result = search(flags, tmp_path / "run", "--track=wandb", "--track=tensorboard")
    assert result.stderr == "warning: tracking with wandb stopped: no network. The run and history.jsonl go on\n"
    check_events(tmp_path / "run")


class Fragile(Tracker):
    """Fails at one of its methods, and counts the calls."""

    name, package = "fragile", "tensorboard"

    def __init__(self, fails_at: str) -> None:
        self.fails_at, self.calls = fails_at, list[str]()

    def _called(self, name: str) -> None:
        self.calls.append(name)
        if name == self.fails_at:
            raise RuntimeError("")

    def on_start(self, start: RunStart) -> None:
        self._called("start")

    def on_generation(self, record: Mapping[str, Any]) -> None:
        self._called("generation")

    def on_metrics(self, metrics: Mapping[str, Any]) -> None:
        self._called("metrics")

    def close(self) -> None:
        self._called("close")


@pytest.mark.parametrize("fails_at", ["start", "generation", "metrics", "close"])
def test_after_a_failure_only_close_is_called(fails_at: str) -> None:
    warnings: list[str] = []
    tracker = Fragile(fails_at)
    guarded = Guarded(tracker, warnings.append)
    guarded.on_start(RunStart(Path(), {}))
    for _ in range(2):
        guarded.on_generation({})
    guarded.on_metrics({})
    guarded.close()
    assert warnings == ["tracking with fragile stopped: RuntimeError. The run and history.jsonl go on"]
    whole = ["start", "generation", "generation", "metrics", "close"]
    assert tracker.calls == [*whole[: whole.index(fails_at) + 1], *(["close"] if fails_at != "close" else [])]


def test_a_tracker_that_never_began_is_closed_quietly(wandb_server: Path) -> None:
    with tracked(["tensorboard", "wandb"], pytest.fail):
        pass
    assert not wandb_server.exists()


def test_unknown_and_missing_trackers_are_refused(
    flags: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(UserError, match="unknown tracker 'tensorbord'; did you mean 'tensorboard'"):
        make_tracker("tensorbord")
    (tmp_path / "wandb").mkdir()  # as W&B leaves one behind where a run was started
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(TRACKERS["wandb"], "package", "wandb_that_is_missing")
    for more in ([], ["--dry-run"]):
        arguments = ["search", *flags, f"--output-dir={tmp_path / 'run'}", "--track", "wandb", *more]
        result = CliRunner().invoke(app, arguments)
        assert result.exit_code == 2
        assert "--track wandb needs the package wandb_that_is_missing: pip install 'gqasearch[wandb]'" in result.stderr
    assert not (tmp_path / "run").exists()
    monkeypatch.setattr(TRACKERS["wandb"], "package", "folder_of_that_name")
    (tmp_path / "folder_of_that_name").mkdir()
    with pytest.raises(UserError, match="needs the package"):
        make_tracker("wandb")
