"""Sweeps run in this process, or by the command line in others."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import optuna
import yaml
from typer.testing import CliRunner, Result

from gqasearch.cli.app import app
from gqasearch.sweeps.study import Place, begin, locate
from gqasearch.sweeps.sweep_worker import Worker


def write(folder: Path, values: dict[str, Any], name: str = "tiny.yaml") -> Path:
    path = folder / name
    path.write_text(yaml.safe_dump(values, sort_keys=False), encoding="utf-8")
    return path


def started(folder: Path, values: dict[str, Any], **options: Any) -> tuple[optuna.Study, Place]:
    """The study of this sweep, begun or joined, without workers."""
    place_options = {"storage": None, "study_name": None, "output_dir": folder / "out"}
    trials = options.pop("trials", None)
    sweep, place = locate(write(folder, values), **{**place_options, **options})
    assert sweep is not None
    return begin(sweep, place, trials), place


def finished(folder: Path, values: dict[str, Any], **options: Any) -> tuple[optuna.Study, Place]:
    """The study after one worker in this process."""
    study, place = started(folder, values, **options)
    Worker(place).run()
    return study, place


def call(*arguments: str | Path) -> Result:
    return CliRunner().invoke(app, ["sweep", *map(str, arguments)])
