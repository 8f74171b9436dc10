"""A run, its checkpoint and its grouping.json say where they come from, and what is made of them goes by that."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from gqasearch.cli.app import app
from gqasearch.config import build_config
from gqasearch.errors import UserError
from gqasearch.grouping_document import read_grouping
from gqasearch.reporting.progress_lines import ProgressLines
from gqasearch.run import RunFolder, run
from gqasearch.run.origin import evaluation_config, healing_settings, origin_of
from tests.samples import random_text
from tests.tiny_models import save_checkpoint, tiny_model

QUICK = {"refine": "outputs", "method": "hill-climb", "baseline": False, "batch_blocks": 3}


def call(*arguments: str | Path) -> tuple[int, str]:
    """Exit code and all output, on one line."""
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exc_info
    return result.exit_code, " ".join(result.output.split())


def kl_of(output: str) -> float:
    return float(json.loads(output)["results"]["converted"]["kl"])


@pytest.fixture(scope="module")
def searched(tmp_path_factory: pytest.TempPathFactory, checkpoint: Path, text: Path) -> RunFolder:
    """A finished run on a text of the user's, in blocks of 32."""
    settings = {**QUICK, "batch_blocks": 8, "model": str(checkpoint), "calibration_text": str(text), "block_length": 32}
    tokens = {"calibration_tokens": 1000, "search_tokens": 300, "evaluation_tokens": 600}
    return run(build_config({**settings, **tokens}), tmp_path_factory.mktemp("runs") / "run")


@pytest.fixture
def alone(searched: RunFolder, tmp_path: Path) -> Path:
    """Its grouping, without the run."""
    path = tmp_path / "best.json"
    shutil.copyfile(searched.grouping, path)
    return path


@pytest.mark.parametrize("named", ["run", "grouping", "model"])
def test_materialize_of_a_run_writes_the_runs_own_checkpoint(searched: RunFolder, named: str, tmp_path: Path) -> None:
    """The same bits: from the run's model, text, blocks and batches, none of which is said again."""
    given = {"run": searched.path, "grouping": searched.grouping, "model": searched.model}[named]
    code, output = call("materialize", given, "--output-dir", tmp_path / "out")
    assert code == 0, output
    for name in ("model.safetensors", "config.json", "grouping.json"):
        assert (tmp_path / "out" / name).read_bytes() == (searched.model / name).read_bytes(), name


def test_another_text_than_the_searchs_is_refused_or_told_of(searched: RunFolder, alone: Path, tmp_path: Path) -> None:
    """Without the run, 256 tokens of the embedded text were taken for a search in blocks of 32 of another."""
    text = searched.read_config().calibration_text
    code, output = call("materialize", alone, "--output-dir", tmp_path / "a", "-q")
    assert code == 2 and "--calibration-text, --calibration-tokens and --block-length" in output
    assert "on embedded, calibration part" in output and f"not on {text}, calibration part" in output
    assert not (tmp_path / "a").exists()
    code, output = call("materialize", alone, "--output-dir", tmp_path / "b", "--calibration-text", text)
    assert code == 0 and "warning: the checkpoint is fitted on other text" in output and "blocks of 256" in output
    told = read_grouping(tmp_path / "b" / "grouping.json").calibration
    assert told is not None and told != read_grouping(alone).calibration
    same = ["--calibration-text", text, "--block-length", "32"]
    code, output = call("materialize", alone, "--output-dir", tmp_path / "c", *same)
    assert code == 0 and "warning" not in output
    weights = [
        (folder / "model.safetensors").read_bytes() for folder in (searched.model, tmp_path / "c", tmp_path / "b")
    ]
    assert weights[0] == weights[1] != weights[2]
    code, output = call("materialize", alone, "--output-dir", tmp_path / "d", "--merge", "mean")  # reads no text
    assert code == 0 and "fitted on" not in output


def test_a_runs_text_that_changed_is_noticed(searched: RunFolder, tmp_path: Path) -> None:
    other = tmp_path / "text.txt"
    other.write_text(random_text(20_000, seed=5))
    folder = tmp_path / "run"
    shutil.copytree(searched.path, folder)
    config = (folder / "config.yaml").read_text()
    (folder / "config.yaml").write_text(config.replace(searched.read_config().calibration_text, str(other)))
    code, output = call("materialize", folder, "--output-dir", tmp_path / "out")
    assert code == 2 and "would be fitted on other text than the grouping was searched with" in output
    code, output = call("materialize", folder, "--output-dir", tmp_path / "out", "--any-text")
    assert code == 0 and "warning: the checkpoint is fitted on other text" in output


def test_evaluate_of_a_run_measures_as_the_run_did(searched: RunFolder) -> None:
    measured = json.loads(searched.metrics.read_text())
    for path in (searched.path, searched.model):
        code, output = call("evaluate", path, "--json")
        assert code == 0, output
        assert kl_of(output) == measured["results"]["converted"]["kl"]
        assert json.loads(output)["texts"] == measured["texts"]["reported"]
    code, output = call("evaluate", searched.path, "--json", "--block-length", "64", "--evaluation-tokens", "200")
    told = json.loads(output)
    assert code == 0 and told["block_length"] == 64 and told["texts"]["tokens"] < 300


def test_a_run_that_compared_on_validation_is_evaluated_on_held_out_text(searched: RunFolder, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    shutil.copytree(searched.path, folder)
    config = (folder / "config.yaml").read_text()
    (folder / "config.yaml").write_text(config.replace("evaluation_part: held-out", "evaluation_part: validation"))
    found = evaluation_config(folder, {})
    assert (found.evaluation_part, found.calibration_text) == ("held-out", searched.read_config().calibration_text)
    assert evaluation_config(folder, {"dtype": "bfloat16"}).dtype == "bfloat16"


def test_a_bare_checkpoint_names_its_parent(searched: RunFolder, checkpoint: Path, tmp_path: Path) -> None:
    bare = tmp_path / "bare"
    shutil.copytree(searched.model, bare)
    assert evaluation_config(bare, {}).model == str(checkpoint)
    assert healing_settings(str(bare), {})["parent"] == str(checkpoint)
    record = json.loads((bare / "grouping.json").read_text())

    def refused(**changes: Any) -> str:
        (bare / "grouping.json").write_text(json.dumps({**record, "model": {**record["model"], **changes}}))
        code, output = call("evaluate", bare)
        assert code == 2
        return output

    assert "cannot be had here; give --parent" in refused(id=str(tmp_path / "gone"))
    assert "are not those that" in refused(fingerprint="sha256:" + "0" * 64)
    (bare / "grouping.json").unlink()
    code, output = call("evaluate", bare)
    assert code == 2 and f"{bare} does not say which model it was made from; give --parent" in output
    assert evaluation_config(bare, {"model": str(checkpoint)}).model == str(checkpoint)


def test_the_revision_that_a_run_found_is_the_one_to_go_on_with(searched: RunFolder, tmp_path: Path) -> None:
    """A hub's main branch may have moved since."""
    folder = tmp_path / "run"
    shutil.copytree(searched.path, folder)
    record = json.loads((folder / "grouping.json").read_text())
    record["model"]["revision"] = "0123abc"
    (folder / "grouping.json").write_text(json.dumps(record))
    found = origin_of(folder)
    assert found is not None and found.settings["revision"] == "0123abc"


def test_a_parent_that_moved_is_asked_for(searched: RunFolder, checkpoint: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    shutil.copytree(searched.path, folder)
    config = (folder / "config.yaml").read_text()
    (folder / "config.yaml").write_text(config.replace(f"model: {checkpoint}", "model: models/mine"))
    for verb, flag in (("evaluate", "--parent"), ("materialize", "--model"), ("heal", "--parent")):
        code, output = call(verb, folder, *([] if verb == "evaluate" else ["--output-dir", tmp_path / "out"]))
        assert code == 2 and f"config.yaml names models/mine, which cannot be had here; give {flag}" in output
    code, output = call("materialize", folder, "--model", checkpoint, "--output-dir", tmp_path / "out")
    assert code == 0, output


def test_a_parent_of_another_vocabulary_is_one_line(searched: RunFolder, tmp_path: Path) -> None:
    """Its tokens beyond the checkpoint's vocabulary were an IndexError."""
    code, output = call("evaluate", searched.model, "--parent", "embedded")
    assert code == 2 and "has a vocabulary of 259 tokens, the parent" in output


def test_heal_takes_parent_and_text_from_the_run(searched: RunFolder, checkpoint: Path, tmp_path: Path) -> None:
    out = tmp_path / "healed"
    steps = ["--steps", "1", "--batch-blocks", "2", "--validation-tokens", "200"]
    code, output = call("heal", searched.path, "--output-dir", out, *steps)
    assert code == 0, output
    told = json.loads((out / "metrics.json").read_text())
    run_told = json.loads(searched.metrics.read_text())
    assert told["texts"]["reported"]["fingerprint"] == run_told["texts"]["reported"]["fingerprint"]
    assert told["results"]["start"]["kl"] == pytest.approx(run_told["results"]["converted"]["kl"], rel=1e-5)
    # And what was healed names its parent, too.
    code, output = call("evaluate", out, "--json")
    assert code == 0 and kl_of(output) == pytest.approx(told["results"]["healed"]["kl"], rel=1e-5)
    assert healing_settings(str(searched.path), {"text": "embedded"})["parent"] == str(checkpoint)


def test_a_folder_of_another_program_says_nothing(tmp_path: Path) -> None:
    save_checkpoint(tiny_model("llama"), tmp_path)
    (tmp_path / "config.yaml").write_text("model: somebody's\nsteps: 3\n")
    with pytest.raises(UserError, match="does not say which model it was made from"):
        evaluation_config(tmp_path, {})
    code, output = call("materialize", tmp_path, "--output-dir", tmp_path / "out")
    assert code == 2 and "has no grouping.json" in output


def test_verbs_on_a_run_tell_their_stages_where_no_terminal_is(
    searched: RunFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`materialize` and `evaluate` showed nothing anywhere; a machine that reads --json is told nothing else."""
    told: list[str] = []
    monkeypatch.setattr(ProgressLines, "stage", lambda self, name, total: told.append(name))
    steps = ["--steps", "1", "--batch-blocks", "1", "--validation-tokens", "100"]
    for arguments, stages in (
        (
            ["materialize", searched.path, "--output-dir", tmp_path / "a"],
            {"model", "refine", "convert"},
        ),
        (["evaluate", searched.path], {"model", "evaluation"}),
        (["heal", searched.path, "--output-dir", tmp_path / "b", *steps], {"text", "heal", "evaluation: healed"}),
        (["materialize", searched.path, "--output-dir", tmp_path / "c", "--json"], set()),
        (["evaluate", searched.path, "--json"], set()),
    ):
        told.clear()
        code, output = call(*arguments)
        assert code == 0, output
        assert stages <= set(told) and bool(stages) == bool(told)


@pytest.mark.parametrize("verb", [("evaluate",), ("heal", "--steps", "2", "--output-dir", "healed")])
def test_a_folder_that_is_no_checkpoint_is_not_asked_for_its_parent(verb: tuple[str, ...], searched: RunFolder) -> None:
    """Here the folder of all runs."""
    code, output = call(*verb, searched.path.parent)
    assert code == 2 and f"{searched.path.parent} is no checkpoint: it has no config.json" in output
