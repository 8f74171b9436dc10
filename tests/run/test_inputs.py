"""A run that was stopped goes on only with the model and the text that it was begun with, whatever their names say."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

from gqasearch.config import build_config
from gqasearch.errors import UserError
from gqasearch.run import RunFolder, run
from gqasearch.steps import Workspace
from gqasearch.steps.measure import checkpoint_subject, measure
from tests.samples import random_text
from tests.tiny_models import save_checkpoint, tiny_model

QUICK = {"merge": "mean", "method": "neighbour", "baseline": False}


@pytest.fixture
def stopped(settings: dict[str, Any], tmp_path: Path) -> dict[str, Any]:
    """Settings of a run in ``tmp_path / "run"`` that was stopped before its measurement."""
    model, text = tmp_path / "model", tmp_path / "text.txt"
    shutil.copytree(settings["model"], model)
    shutil.copy(settings["calibration_text"], text)
    own = {**settings, **QUICK, "model": str(model), "calibration_text": str(text)}
    folder = run(build_config(own), tmp_path / "run", report=False)
    folder.metrics.unlink()
    return own


def test_another_text_under_the_same_name_ends_what_was_begun(stopped: dict[str, Any], tmp_path: Path) -> None:
    text = Path(stopped["calibration_text"])
    before = text.read_bytes()
    text.write_text(random_text(20_000, seed=5))
    with pytest.raises(UserError, match="another calibration text and another evaluation text under the same name"):
        run(build_config(stopped), tmp_path / "run", report=False)
    text.write_bytes(before)
    assert run(build_config(stopped), tmp_path / "run", report=False).metrics.is_file()


def test_other_weights_under_the_same_name_end_what_was_begun(stopped: dict[str, Any], tmp_path: Path) -> None:
    save_checkpoint(tiny_model("llama", seed=3), Path(stopped["model"]))
    with pytest.raises(UserError, match="another model under the same name"):
        run(build_config(stopped), tmp_path / "run", report=False)
    assert not RunFolder(tmp_path / "run").metrics.is_file()


def test_a_finished_runs_checkpoint_is_written_again_of_the_same_only(stopped: dict[str, Any], tmp_path: Path) -> None:
    folder = run(build_config(stopped), tmp_path / "run", report=False)
    Path(stopped["calibration_text"]).write_text(random_text(20_000, seed=5))
    run(build_config(stopped), tmp_path / "run", report=False)  # nothing is left to be done
    shutil.rmtree(folder.model)
    with pytest.raises(UserError, match="under the same name"):
        run(build_config(stopped), tmp_path / "run", report=False)


def test_one_text_by_two_names_is_not_searched_and_reported_on(settings: dict[str, Any], tmp_path: Path) -> None:
    link = tmp_path / "link.txt"
    link.symlink_to(settings["calibration_text"])
    with pytest.raises(UserError, match="must be reported on text that was not searched on"):
        run(build_config({**settings, **QUICK, "evaluation_text": str(link)}), tmp_path / "run")


def test_evaluate_reads_no_text_but_the_reported_one(stopped: dict[str, Any], tmp_path: Path) -> None:
    config = build_config(stopped)
    work = Workspace(config.model_copy(update={"calibration_tokens": 1 << 20}))
    blocks, read = work.blocks, list[str]()
    work.blocks = lambda split: read.append(split) or blocks(split)  # type: ignore[method-assign, func-returns-value]
    metrics = measure(work, {"it": checkpoint_subject(work, tmp_path / "run" / "model")}, is_run=False)
    assert set(read) == {"evaluation"} and metrics["texts"].keys() == {"reported"}
