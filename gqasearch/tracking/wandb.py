"""Weights & Biases: a run there for every run folder."""

from __future__ import annotations

import os
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from gqasearch.files import read_json, write_file
from gqasearch.run import RunStart
from gqasearch.tracking._base import Tracker, generation_scalars, held_out_scalars

PROJECT = "gqasearch"


class WandB(Tracker):
    """Figures by generation, held-out figures as the summary; W&B's own variables (WANDB_PROJECT, WANDB_MODE) hold.

    The run's id there is kept in ``state/wandb.json``. A run that goes on is found by it, and steps that W&B has
    are not sent again.

    https://docs.wandb.ai/guides/runs/resuming
    """

    name = "wandb"
    package = "wandb"

    def __init__(self) -> None:
        self._run: Any = None
        self._objectives: list[str] = []
        self._next = 0
        self._over = False

    def on_start(self, start: RunStart) -> None:
        import wandb

        self._objectives = list(start.config["objectives"])
        self._run = wandb.init(
            project=os.environ.get("WANDB_PROJECT", PROJECT),
            name=start.folder.resolve().name,
            id=_run_id(start.folder),
            resume="allow",
            dir=str(start.folder),
            config=dict(start.config),
        )
        self._next = self._run.step  # of a run that goes on: the first step that W&B does not have
        for record in start.history:
            self.on_generation(record)

    def on_generation(self, record: Mapping[str, Any]) -> None:
        if record["generation"] >= self._next:
            self._run.log(generation_scalars(record, self._objectives), step=record["generation"])
            self._next = record["generation"] + 1

    def on_metrics(self, metrics: Mapping[str, Any]) -> None:
        self._run.summary.update(held_out_scalars(metrics))
        self._over = True

    def close(self) -> None:
        if self._run is not None:
            self._run.finish(exit_code=0 if self._over else 1)


def _run_id(folder: Path) -> str:
    """The id that this run folder has at W&B, made when first asked for."""
    path = folder / "state" / "wandb.json"
    if not path.is_file():
        write_file(path, f'{{"id": "{uuid.uuid4().hex}"}}\n')
    return str(read_json(path)["id"])
