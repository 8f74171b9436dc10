"""What a run tells of itself: bytes as they are stored, seconds of all it did, a checkpoint that was loaded back."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import dynamic_module_utils
from typer.testing import CliRunner

from gqasearch.checkpoints.shards import Shards
from gqasearch.cli.app import app
from gqasearch.errors import UserError
from gqasearch.run import RunFolder, build_config, pipeline, report_data, run, stage_clock
from gqasearch.run.stage_clock import StageClock
from gqasearch.run.workspace import NoProgress
from tests.checkpoints.test_loaded_back import FAULTS
from tests.tiny_models import save_checkpoint, tiny_model

PLAIN = {"method": "neighbour", "merge": "mean", "objectives": ["weight-sharing-error"], "refine": "outputs"}


def finished(settings: dict[str, Any], folder: Path, **changes: Any) -> RunFolder:
    return run(build_config({**settings, **PLAIN, **changes}), folder, report=False)


@pytest.mark.parametrize("changes", [{}, {"materialize": False}, {"dtype": "bfloat16"}], ids=str)
def test_bytes_are_those_of_the_stored_dtype(changes: dict[str, Any], settings: dict[str, Any], tmp_path: Path) -> None:
    """Whatever the run computes in: a model of bfloat16 has a cache of bfloat16."""
    source = save_checkpoint(tiny_model("llama", dtype=torch.bfloat16), tmp_path / "source")
    folder = finished({**settings, "model": str(source)}, tmp_path / "run", baseline=True, **changes)
    metrics = json.loads(folder.metrics.read_text())
    told = [metrics["parent"], *metrics["results"].values()]
    assert [record["kv_bytes_per_token"] for record in told] == [layers * 2 * 8 * 2 for layers in (12, 6, 6)]
    assert report_data([folder]).parent.kv_bytes_per_token == 384


def test_seconds_of_every_stage_over_restarts(
    settings: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The conversion was made before the run was stopped; it is told of, in the sum and in the table."""
    measure = pipeline.measure

    def stopped(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(pipeline, "measure", stopped)
    with pytest.raises(KeyboardInterrupt):
        finished(settings, tmp_path / "run")
    before = json.loads((tmp_path / "run" / "state" / "seconds.json").read_text())
    monkeypatch.setattr(pipeline, "measure", measure)
    folder = finished(settings, tmp_path / "run")
    seconds = json.loads(folder.metrics.read_text())["seconds"]
    assert {"load", "search", "refine", "convert", "evaluation", "all"} <= seconds.keys()
    assert seconds["convert"] >= before["convert"] > 0 and seconds["refine"] == before["refine"] > 0
    assert seconds["all"] == pytest.approx(sum(seconds.values()) - seconds["all"])
    (own,) = [result for result in report_data([folder]).results if result.merge != "mean"]
    assert own.seconds == seconds["all"]


def test_a_clock_goes_on_from_what_was_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr(stage_clock.time, "monotonic", lambda: now[0])
    for _ in range(2):
        clock = StageClock(NoProgress(), tmp_path / "seconds.json")
        now[0] += 1
        clock.stage("evaluation: start")
        now[0] += 10
        clock.update(1)
        now[0] += 3  # and is killed
    assert json.loads((tmp_path / "seconds.json").read_text()) == {"load": 2.0, "evaluation": 20.0}


def test_code_of_a_checkpoint_needs_no_home_that_can_be_written(
    settings: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "home").write_text("a file: nothing can be made below it, by root neither")
    monkeypatch.setattr(dynamic_module_utils, "HF_MODULES_CACHE", str(tmp_path / "home" / "modules"))
    folder = finished(settings, tmp_path / "run", layout="ragged")
    assert json.loads(folder.metrics.read_text())["checkpoint"]["layout"] == "ragged"
    assert list(folder.model.glob("modeling_*.py"))


def test_a_run_that_is_resumed_loads_its_checkpoint_back_too(
    settings: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        FAULTS["no output head"](patch)
        for _ in range(2):
            with pytest.raises(UserError, match=r"does not load and run.*has no tensor lm_head"):
                finished(settings, tmp_path / "run")
            assert not (tmp_path / "run" / "model").exists() and not (tmp_path / "run" / "metrics.json").exists()
    assert finished(settings, tmp_path / "run").metrics.is_file()


def test_materialize_says_what_it_was_loaded_back_on(
    settings: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = finished(settings, tmp_path / "run", materialize=False, baseline=False, refine="none")
    source = shutil.copytree(settings["model"], tmp_path / "source")

    def call(out: str) -> tuple[int, str]:
        words = ["materialize", str(folder.grouping), "--model", str(source), "--output-dir", str(tmp_path / out)]
        result = CliRunner().invoke(app, words)
        return result.exit_code, " ".join(result.output.split())

    code, told = call("with")
    assert code == 0 and "its logits on 128 tokens (the calibration part of" in told
    for path in source.glob("tokenizer*"):
        path.unlink()
    code, told = call("without")
    assert code == 0 and "drawn from the vocabulary, as there is no tokenizer" in told
    original = Shards.write
    monkeypatch.setattr(Shards, "write", lambda self, *given: original(self, *given))
    FAULTS["norm of ones"](monkeypatch)
    code, told = call("wrong")
    assert code == 2 and "does not compute what it was converted to" in told and "Traceback" not in told
    assert not (tmp_path / "wrong").exists()
