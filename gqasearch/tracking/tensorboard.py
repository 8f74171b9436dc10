"""TensorBoard: event files in the run folder."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import yaml

from gqasearch.run import RunStart
from gqasearch.tracking._base import Tracker, generation_scalars, held_out_scalars

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter

FLUSH_SECONDS = 2


class TensorBoard(Tracker):
    """Scalars by generation in ``tensorboard/`` of the run folder; ``tensorboard --logdir runs`` shows all runs.

    A run that goes on writes its whole history anew, after a mark that makes readers forget what was there: events
    of a killed process may be missing, or be of generations that it is about to do again. Values are single
    precision, as TensorBoard's scalars are.

    https://www.tensorflow.org/tensorboard
    """

    name = "tensorboard"
    package = "tensorboard"

    def __init__(self) -> None:
        self._writer: SummaryWriter | None = None
        self._objectives: list[str] = []
        self._last = 0

    def on_start(self, start: RunStart) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self._objectives = list(start.config["objectives"])
        self._writer = SummaryWriter(start.folder / "tensorboard", purge_step=0, flush_secs=FLUSH_SECONDS)
        text = yaml.safe_dump(dict(start.config), sort_keys=False)
        self._writer.add_text("config", "".join(f"    {line}\n" for line in text.splitlines()), 0)  # as Markdown's code
        for record in start.history:
            self.on_generation(record)

    def on_generation(self, record: Mapping[str, Any]) -> None:
        self._last = record["generation"]
        self._write(generation_scalars(record, self._objectives))

    def on_metrics(self, metrics: Mapping[str, Any]) -> None:
        self._write(held_out_scalars(metrics))

    def close(self) -> None:
        if self._writer is not None:
            self._writer.close()

    def _write(self, scalars: Mapping[str, float]) -> None:
        if self._writer is not None:
            for name, value in scalars.items():
                self._writer.add_scalar(name, value, self._last)
