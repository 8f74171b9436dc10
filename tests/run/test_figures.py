"""What a run tells of itself: bytes as they are stored, seconds of all it did, a checkpoint that was loaded back."""

from __future__ import annotations

import json
import shutil
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import dynamic_module_utils
from typer.testing import CliRunner

from gqasearch.checkpoints.shards import Shards
from gqasearch.cli.app import app
from gqasearch.config import build_config
from gqasearch.errors import UserError
from gqasearch.run import RunFolder, pipeline, report_data, run, stage_clock
from gqasearch.run.peak_memory import SAMPLE_SECONDS, PeakMemory, peak_resident_bytes, resident_bytes
from gqasearch.run.stage_clock import StageClock
from gqasearch.steps.progress import NoProgress
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
    measure = pipeline.measure_run

    def stopped(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(pipeline, "measure_run", stopped)
    with pytest.raises(KeyboardInterrupt):
        finished(settings, tmp_path / "run")
    before = json.loads((tmp_path / "run" / "state" / "stages.json").read_text())
    monkeypatch.setattr(pipeline, "measure_run", measure)
    folder = finished(settings, tmp_path / "run")
    seconds = json.loads(folder.metrics.read_text())["seconds"]
    assert {"load", "search", "refine", "convert", "evaluation", "all"} <= seconds.keys()
    assert seconds["convert"] >= before["convert"]["seconds"] > 0
    assert seconds["refine"] == before["refine"]["seconds"] > 0
    metrics = json.loads(folder.metrics.read_text())
    assert metrics["peak_bytes"].keys() == metrics["cpu_seconds"].keys() == seconds.keys() - {"all"}
    assert all(peak > 1e8 for peak in metrics["peak_bytes"].values())  # torch alone is larger
    assert "evaluation" in report_data([folder]).environment["peak of memory, GB"]
    assert seconds["all"] == pytest.approx(sum(seconds.values()) - seconds["all"])
    (own,) = [result for result in report_data([folder]).results if result.merge != "mean"]
    assert own.seconds == seconds["all"]


def test_a_clock_goes_on_from_what_was_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr(stage_clock.time, "monotonic", lambda: now[0])
    for _ in range(2):
        clock = StageClock(NoProgress(), tmp_path / "stages.json")
        clock._memory.close()
        now[0] += 1
        clock.stage("evaluation: start")
        now[0] += 10
        clock.update(1)
        now[0] += 3  # and is killed
    stages = json.loads((tmp_path / "stages.json").read_text())
    assert {name: taken["seconds"] for name, taken in stages.items()} == {"load": 2.0, "evaluation": 20.0}


def test_every_stage_has_its_own_peak(tmp_path: Path) -> None:
    """One that is no record of the process, too; what a stage before it had is not its own."""
    record = np.ones(60_000_000)  # half a GB
    clock = StageClock(NoProgress(), tmp_path / "stages.json")
    size, before = record.nbytes, resident_bytes()
    del record
    for name, megabytes in (("calibration", 0), ("search", 300), ("refine", 100)):
        clock.stage(name)
        held = np.ones(megabytes * 125_000)
        time.sleep(4 * SAMPLE_SECONDS)
        del held
    clock.close()
    peaks = {name: taken["peak"] for name, taken in json.loads((tmp_path / "stages.json").read_text()).items()}
    base = before - size
    assert peaks["search"] - base == pytest.approx(3e8, abs=5e7)
    assert peaks["refine"] - base == pytest.approx(1e8, abs=5e7)
    assert peaks["calibration"] - base < 5e7


def test_a_peak_between_samples_is_seen_where_it_is_a_record(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gqasearch.run.peak_memory.SAMPLE_SECONDS", 3600)
    memory = PeakMemory()
    memory.take()
    before = peak_resident_bytes()
    np.ones(int(before - resident_bytes() + 2e8) // 8).sum()
    assert memory.take() == peak_resident_bytes() > before + 1e8
    memory.close()


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
