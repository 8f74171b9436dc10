"""How far a text is on its way up through its models, on disk: a process that was killed loses a minute of it."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from safetensors.torch import load_file
from torch import Tensor

from gqasearch.files import read_json, save_tensors, write_json

REST_SECONDS = 60.0  # of work that may be lost


class ClimbState:
    """Of one climb, in ``folder``: what came of the batches that are through, and how high the next ones are.

    ``key``: of all that the climb depends on; what another one left is removed. Hidden states have a folder per level,
    which the record names only once it is complete.
    """

    def __init__(self, folder: Path, key: str) -> None:
        self._folder, self._record = folder, folder / "climb.json"
        found = read_json(self._record) if self._record.is_file() else {}
        if found.get("key") != key:
            shutil.rmtree(folder, ignore_errors=True)
            found = {"key": key, "batches": 0, "sums": [], "level": 0, "last": 0}
        self._state: dict[str, Any] = found
        self._rested = time.monotonic()
        self._sums: Callable[[], Sequence[Any]] = list

    @property
    def batches(self) -> int:
        """How many are through, from the first."""
        return int(self._state["batches"])

    @property
    def sums(self) -> Sequence[Any]:
        """What ``note`` gave for them; empty before the first."""
        found: list[Any] = self._state["sums"]
        return found

    @property
    def level(self) -> int:
        """How many layers the batches from ``batches`` up to ``last`` have passed."""
        return int(self._state["level"])

    @property
    def last(self) -> int:
        return int(self._state["last"])

    def note(self, sums: Callable[[], Sequence[Any]]) -> None:
        """What is to be kept, JSON-able, whenever batches are through."""
        self._sums = sums

    def hidden(self, batch: int) -> list[Tensor]:
        """Of a batch at ``level``, (B, T, D) by model."""
        found = load_file(self._path(self.level) / f"{batch}.safetensors")
        return [found[str(number)] for number in range(len(found))]

    def rest(self, level: int, first: int, hidden: Sequence[Sequence[Tensor]]) -> None:
        """Keep the hidden states of the batches from ``first`` on, by model, where the last rest is long ago."""
        if time.monotonic() - self._rested < REST_SECONDS:
            return
        path = self._path(level)
        path.mkdir(parents=True, exist_ok=True)
        for batch, models in enumerate(hidden, start=first):
            # Models may share theirs, which a file does not take twice.
            named = {str(number): tensor.detach().cpu().clone() for number, tensor in enumerate(models)}
            save_tensors(path / f"{batch}.safetensors", named)
        self._write(level=level, last=first + len(hidden))
        self._rested = time.monotonic()

    def done(self, batches: int) -> None:
        """The first ``batches`` are through."""
        self._write(level=0, last=0, batches=batches, sums=self._sums())

    def _path(self, level: int) -> Path:
        return self._folder / f"level-{level}"

    def _write(self, **changes: Any) -> None:
        self._folder.mkdir(parents=True, exist_ok=True)
        self._state = {**self._state, **changes}
        write_json(self._record, self._state, overwrite=True)
        for path in self._folder.glob("level-*"):
            if path != self._path(self.level):
                shutil.rmtree(path, ignore_errors=True)
