"""``python -m experiments.healing``, on runs that were not trained."""

from __future__ import annotations

import sys
from pathlib import Path

import pandas as pd
import pytest

from experiments.healing import __main__ as experiment
from gqasearch.healing import HealConfig
from gqasearch.run.heal import HealFolder
from tests.healing.folders import healing_folder

KLS = {"neighbour": [2.0, 1.0, 0.8], "qcqa-ac": [1.9, 0.9, 0.7], "asymgqa": [2.1, 1.1, 0.9], "ours": [0.2, 0.1, 0.05]}


@pytest.fixture
def call(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> object:
    """Runs the command with searches and healing replaced; gives what was healed."""
    healed: list[HealConfig] = []

    def heal(config: HealConfig, folder: Path, _progress: object) -> HealFolder:
        healed.append(config)
        if not folder.exists():
            healing_folder(folder, KLS[folder.parent.name], **config.model_dump(mode="json"))
        return HealFolder(folder)

    monkeypatch.setattr(experiment, "heal", heal)
    monkeypatch.setattr(experiment, "run", lambda _config, folder, _progress: HealFolder(folder))

    def run(*arguments: str) -> list[HealConfig]:
        places = ["--work-dir", str(tmp_path / "work"), "--results", str(tmp_path / "results")]
        monkeypatch.setattr(sys, "argv", ["healing", *arguments, *places])
        healed.clear()
        experiment.main()
        return list(healed)

    return run


def test_parts_come_together(call: object, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert callable(call)
    configs = call("--starts", "neighbour", "qcqa-ac", "asymgqa", "--seeds", "0", "1", "--steps", "200")
    assert len(configs) == 6 and {config.seed for config in configs} == {0, 1}
    assert all(config.steps == 200 and config.parent == "embedded" for config in configs)
    results = tmp_path / "results" / "kv-0.25-steps-200-lr-0.001"
    assert "ours" not in set(pd.read_csv(results / "history.csv")["start"])
    capsys.readouterr()
    call("--starts", "ours", "--seeds", "0", "1", "--steps", "200")
    shown = capsys.readouterr().out
    assert "ours is ahead of every other start at all 3 points measured" in shown
    assert "ours, its worst seed, against neighbour + mean, its best: ahead at 3 of 3 measured steps" in shown
    names = {"curves.png", "environment.json", "figures.csv", "history.csv", "report.html", "tokens.csv"}
    assert {path.name for path in results.iterdir()} == names
    history = pd.read_csv(results / "history.csv")
    assert len(history) == 24 and set(history["start"]) == {experiment.LABELS[name] for name in experiment.STARTS}
    for path in results.iterdir():  # no folders of this machine
        assert str(tmp_path).encode() not in path.read_bytes()
    call("--show")
    assert "kv-0.25-steps-200-lr-0.001: on held-out text" in capsys.readouterr().out


def test_searches_are_what_their_names_say(tmp_path: Path) -> None:
    configs = {name: experiment.build_config({"kv_ratio": 0.25, **s}) for name, s in experiment.STARTS.items()}
    merges = {name: (config.method, config.merge) for name, config in configs.items()}
    assert merges == {
        "neighbour": ("neighbour", "mean"),
        "qcqa-ac": ("qcqa-ac", "mean"),
        "asymgqa": ("asymgqa", "mean"),
        "ours": ("evolution", "optimal"),
    }
