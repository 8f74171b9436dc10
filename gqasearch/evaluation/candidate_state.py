"""What candidates that run the model have cost so far, on disk: a process that was killed loses a minute of it."""

from __future__ import annotations

import hashlib
import json
import shutil
import time
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeAlias

from safetensors.torch import load_file
from torch import Tensor

from gqasearch.evaluation.climb_state import REST_SECONDS
from gqasearch.files import read_json, save_tensors, write_json
from gqasearch.grouping import LayerGrouping
from gqasearch.searching.evaluation_log import whole_lines
from gqasearch.separate_grouping import AnyGrouping, AnyLayer, SeparateLayer

# A batch and a candidate.
Pair: TypeAlias = tuple[int, AnyGrouping]
# A batch and the layers that it has passed: what names a hidden state.
Passed: TypeAlias = tuple[int, tuple[AnyLayer, ...]]


class CandidateState:
    """Losses of candidates by batch, and the hidden states of those on their way up, in ``folder``.

    Everything is named by what it is of, so whoever asks for the same finds it, in any order. The folder must be of
    one model, text and merge: nothing here tells them apart.
    """

    def __init__(self, folder: Path) -> None:
        self._folder, self._record, self._log = folder, folder / "hidden.json", folder / "losses.jsonl"
        self._losses = dict(self._read_log())
        self._rested = time.monotonic()

    def _read_log(self) -> Iterator[tuple[tuple[int, str], float]]:
        """What is known."""
        for line in whole_lines(self._log):
            batch, digest, loss = json.loads(line)
            yield (batch, digest), loss

    def loss(self, pair: Pair) -> float | None:
        """The loss of a candidate on a batch, if it is known."""
        return self._losses.get((pair[0], digest_of(pair[1])))

    def add(self, losses: Iterable[tuple[Pair, float]]) -> None:
        """Keep these; hidden states that led to them are of no more use."""
        lines = [json.dumps([batch, digest_of(grouping), loss]) + "\n" for (batch, grouping), loss in losses]
        self._folder.mkdir(parents=True, exist_ok=True)
        with self._log.open("a") as file:
            file.writelines(lines)
        self._keep_only(None)

    def hidden(self) -> Iterator[tuple[Passed, Tensor]]:
        """The hidden states (B, T, D) that an earlier process had on their way."""
        if not self._record.is_file():
            return
        record = read_json(self._record)
        for number, (batch, layers) in enumerate(record["states"]):
            passed = tuple(_layer_of(labels) for labels in layers)
            yield (batch, passed), load_file(self._path(record["level"]) / f"{number}.safetensors")["hidden"]

    def rest(self, level: int, states: Mapping[Passed, Tensor]) -> None:
        """Keep the hidden states that have passed ``level`` layers, where the last rest is long ago."""
        if time.monotonic() - self._rested < REST_SECONDS:
            return
        if self._path(level).exists():  # the record may name it: then it goes first
            self._keep_only(None)
        self._path(level).mkdir(parents=True)
        for number, tensor in enumerate(states.values()):
            path = self._path(level) / f"{number}.safetensors"
            save_tensors(path, {"hidden": tensor.detach().cpu().contiguous()})
        names = [[batch, [_labels_of(layer) for layer in passed]] for batch, passed in states]
        write_json(self._record, {"level": level, "states": names}, overwrite=True)
        self._keep_only(level)
        self._rested = time.monotonic()

    def _keep_only(self, level: int | None) -> None:
        """Of the folders of hidden states; without any the record goes first."""
        if level is None:
            self._record.unlink(missing_ok=True)
        for path in self._folder.glob("level-*"):
            if level is None or path != self._path(level):
                shutil.rmtree(path, ignore_errors=True)

    def _path(self, level: int) -> Path:
        return self._folder / f"level-{level}"


def digest_of(grouping: AnyGrouping) -> str:
    """A short name of a grouping, the same in every process."""
    labels = json.dumps([_labels_of(layer) for layer in grouping])
    return hashlib.sha256(labels.encode()).hexdigest()[:32]


def _labels_of(layer: AnyLayer) -> list[int] | list[list[int]]:
    """Labels of the heads; of two partitions, the keys' and the values'."""
    if isinstance(layer, LayerGrouping):
        return list(layer.labels)
    return [list(layer.keys.labels), list(layer.values.labels)]


def _layer_of(labels: Any) -> AnyLayer:
    """The reverse of ``_labels_of``."""
    if isinstance(labels[0], int):
        return LayerGrouping.from_labels(labels)
    return SeparateLayer(*map(LayerGrouping.from_labels, labels))
