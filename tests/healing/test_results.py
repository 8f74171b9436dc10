"""Healing runs read from their folders."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

from gqasearch.cli.app import app
from gqasearch.errors import UserError
from gqasearch.run.heal import is_heal_folder
from gqasearch.run.heal.healed_runs import all_healing, healing_data, start_label
from tests.healing.folders import document, healing_folder
from tests.healing.healed import converted, healed

PLAIN = document("neighbour", "weight-sharing-error", "mean")
OURS = document("staged", "kl", "optimal", "descent")


def test_runs_are_named_by_what_made_their_start(tmp_path: Path) -> None:
    first = healing_folder(tmp_path / "a", [2.0, 1.0, 0.5], PLAIN)
    second = healing_folder(tmp_path / "b", [0.2, 0.1, 0.05], OURS, model="runs/ours")
    data = healing_data([first, second])
    assert list(data.starts) == ["neighbour + mean", "kl (staged) + optimal + descent"]
    run = data.starts["neighbour + mean"][0]
    assert [(point.tokens, point.kl) for point in run.history] == [(0, 2.0), (204_800, 1.0), (409_600, 0.5)]
    assert (run.start.kl, run.healed.kl, run.tokens, run.kept.kl) == (2.0, 0.5, 409_600, 0.5)
    assert data.parent.kv_bytes_per_token == 9216 and data.validation_perplexity is None
    assert [text.role for text in data.texts] == ["training", "validation", "held-out"]
    assert f"# {second}: as the first, but\nmodel: runs/ours\n" in data.configuration


@pytest.mark.parametrize(
    ("method", "fitness", "merge", "refinement", "label"),
    [
        ("evolution", "merge-error", "optimal", "descent", "merge-error + optimal + descent"),
        ("qcqa-ac", "weight-sharing-error", "mean", "none", "weight-sharing-error (qcqa-ac) + mean"),
        ("neighbour", "merge-error", "mean", "none", "neighbour + mean"),
    ],
)
def test_labels(method: str, fitness: str, merge: str, refinement: str, label: str) -> None:
    assert start_label(document(method, fitness, merge, refinement)) == label


def test_seeds_share_a_label_and_other_settings_do_not(tmp_path: Path) -> None:
    folders = [
        healing_folder(tmp_path / "0", [2.0, 1.0], PLAIN, learning_rate=1e-3),
        healing_folder(tmp_path / "1", [2.0, 1.1], PLAIN, learning_rate=1e-3, seed=1),
        healing_folder(tmp_path / "2", [2.0, 1.2], PLAIN, learning_rate=5e-4),
    ]
    starts = healing_data(folders).starts
    assert {label: [run.seed for run in runs] for label, runs in starts.items()} == {
        "neighbour + mean (learning rate 0.001)": [0, 1],
        "neighbour + mean (learning rate 0.0005)": [0],
    }
    named = healing_data(folders, labels=["x", "x", "y"]).starts
    assert {label: len(runs) for label, runs in named.items()} == {"x": 2, "y": 1}
    with pytest.raises(UserError, match="3 folders and 1 labels"):
        healing_data(folders, labels=["x"])


def test_a_start_without_grouping_json_is_named_by_its_folder(tmp_path: Path) -> None:
    folder = healing_folder(tmp_path / "a", [2.0, 1.0], model="elsewhere/ours/model")
    assert list(healing_data([folder]).starts) == ["ours"]


def test_with_patience_the_best_weights_were_kept(tmp_path: Path) -> None:
    folder = healing_folder(tmp_path / "a", [2.0, 1.0, 1.5], PLAIN, patience=1, steps=900)
    metrics = json.loads((folder / "metrics.json").read_text())
    (folder / "metrics.json").write_text(json.dumps({**metrics, "stopped_early": True}))
    data = healing_data([folder])
    assert data.runs[0].kept.kl == 1.0
    assert "after 200 of 900 steps" in data.notes[0]


def test_what_does_not_fit_together_is_refused(tmp_path: Path) -> None:
    good = healing_folder(tmp_path / "good", [2.0, 1.0], PLAIN)
    other_text = healing_folder(tmp_path / "text", [2.0, 1.0], PLAIN, text="c")
    with pytest.raises(UserError, match="different held-out texts"):
        healing_data([good, other_text])
    unfinished = healing_folder(tmp_path / "unfinished", [2.0, 1.0], PLAIN)
    (unfinished / "metrics.json").unlink()
    with pytest.raises(UserError, match="is unfinished"):
        healing_data([unfinished])
    empty = healing_folder(tmp_path / "empty", [2.0, 1.0], PLAIN)
    (empty / "history.jsonl").write_text("")
    with pytest.raises(UserError, match=r"no history.jsonl, or an empty one"):
        healing_data([empty])
    search = tmp_path / "search"
    search.mkdir()
    (search / "config.yaml").write_text(yaml.safe_dump({"model": "embedded", "method": "evolution"}))
    assert not is_heal_folder(search) and not is_heal_folder(tmp_path / "nothing")
    assert all_healing([good, other_text]) and not all_healing([search])
    with pytest.raises(UserError, match=r"good is a healing run, .*search is not"):
        all_healing([good, search])


def test_a_run_writes_its_own_page_and_is_shown_with_others(tmp_path: Path) -> None:
    converted(tmp_path, "stock-symmetric")
    first, second = (healed(tmp_path, f"seed-{seed}", seed=seed, steps=4) for seed in (0, 1))
    assert "What every token of training brings" in first.report.read_text()
    data = healing_data([first.path, second.path])
    ((_, runs),) = data.starts.items()
    assert [run.seed for run in runs] == [0, 1]
    metrics = json.loads(first.metrics.read_text())
    assert data.validation_perplexity == metrics["texts"]["validation"]["parent_perplexity"]
    assert runs[0].healed.kl == metrics["results"]["healed"]["kl"]
    assert [point.tokens for point in runs[0].history] == [0, 128, 256]


def test_report_from_the_command_line(tmp_path: Path) -> None:
    first = healing_folder(tmp_path / "a", [2.0, 1.0, 0.5], PLAIN)
    second = healing_folder(tmp_path / "b", [0.2, 0.1, 0.05], OURS, model="runs/ours")
    page, table = tmp_path / "page.html", tmp_path / "history.csv"
    arguments = ["report", str(first), str(second), "-o", str(page), "--label", "plain", "--label", "ours"]
    result = CliRunner().invoke(app, [*arguments, "--csv", str(table), "--title", "Healed"])
    assert result.exit_code == 0, result.output
    assert "ours is ahead of every other start at all 3 points measured" in result.output
    assert "<h1>Healed</h1>" in page.read_text() and "Tokens to a given validation KL" in result.output
    assert table.read_text().count("\n") == 7
    again = CliRunner().invoke(app, arguments)
    assert again.exit_code == 2 and "exists already" in again.stderr
    own = CliRunner().invoke(app, ["report", str(first)])
    assert own.exit_code == 0 and (first / "report.html").is_file()
    mixed = CliRunner().invoke(app, ["report", str(first), str(tmp_path)])
    assert mixed.exit_code == 2 and "a page shows runs of one kind" in " ".join(mixed.stderr.split())
