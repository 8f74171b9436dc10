"""What a search was answered, in a file as it goes: the search made again from its seed is answered from there.

So a search that was killed goes on with the same bits, whatever the method, and evaluates nothing twice. A line of JSON
stands for a question: what was asked, the groups or groupings, and the values.
"""

from __future__ import annotations

import base64
import json
import os
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from gqasearch.contract import Answer, Facts, Item, PreparedFitness, PreparedGroupFitness, Question, answered
from gqasearch.errors import UserError
from gqasearch.group_errors import mask_of
from gqasearch.grouping import Grouping

Key = int | bytes


def key_of(item: Item) -> Key:
    """A group's bit mask; a grouping's labels, two little-endian bytes each."""
    if isinstance(item, Grouping):
        return np.array([layer.labels for layer in item], dtype="<u2").tobytes()
    return mask_of(item)


class EvaluationLog:
    """Answers from ``path``, where there are any, and notes those that are new.

    ``seconds``: that the search had taken after each of the generations that it made before.
    ``costs``: gives what a line has beside: figures of the process since the line before.
    """

    def __init__(self, path: Path, seconds: Sequence[float] = ()) -> None:
        self.seconds = tuple(seconds)
        self.costs: Callable[[], dict[str, Any]] = dict
        self._known: dict[str, dict[Key, float]] = {}
        self._recalled: dict[str, Any] = {}
        for record in read_log(path):
            if "key" in record:
                self._recalled[record["key"]] = record["value"]
            else:
                self._known.setdefault(record["of"], {}).update(zip(_keys(record), record["values"], strict=True))
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file = path.open("a", encoding="utf-8")

    def close(self) -> None:
        """Nothing is noted any more."""
        self._file.close()

    def of(self, name: str, prepared: PreparedFitness) -> PreparedFitness:
        """``prepared``, its answers noted under this name; distances between heads are not: they are there at once."""
        facts = Facts.of(prepared)
        if facts.kind == "pairwise":
            return prepared
        known = prepared.known if isinstance(prepared, PreparedGroupFitness) else None
        return answered(name, facts, self._noted(prepared), known)

    def recall(self, key: str, make: Callable[[], Any]) -> Any:
        """See ``Problem``."""
        if key not in self._recalled:
            self._recalled[key] = make()
            self._write({"key": key, "value": self._recalled[key]})
        return self._recalled[key]

    def _noted(self, prepared: PreparedFitness) -> Answer:
        def answer(question: Question, items: Sequence[Any]) -> Sequence[float]:
            known = self._known.get(_words(question), {})
            new = {key: item for item in items if (key := key_of(item)) not in known}
            if not new:
                return [known[key_of(item)] for item in items]
            values = dict(zip(new, question.of(prepared, list(new.values())), strict=True))
            if np.isfinite(list(values.values())).all():  # else the search ends here, and says why
                self._write({"of": _words(question), **_items(list(new)), "values": list(values.values())})
            return [values[key] if key in values else known[key] for key in map(key_of, items)]

        return answer

    def _write(self, record: dict[str, Any]) -> None:
        self._file.write(json.dumps(record | self.costs(), allow_nan=False) + "\n")
        self._file.flush()


def whole_lines(path: Path) -> list[str]:
    """Lines of a file that is appended to; one that a killed process left unfinished is cut off, in the file too."""
    if not path.is_file():
        return []
    data = path.read_bytes()
    end = data.rfind(b"\n") + 1
    if end < len(data):
        os.truncate(path, end)
    return data[:end].decode("utf-8").splitlines()


def read_log(path: Path) -> list[dict[str, Any]]:
    """Its records; a last line that a killed process left unfinished is cut off. Raises ``UserError`` for no log."""
    try:
        return [json.loads(line) for line in whole_lines(path)]
    except ValueError as error:
        raise UserError(f"{path} is no log of evaluations ({error}); remove it to evaluate all anew") from None


def values_of(path: Path, fitness: str, num_layers: int) -> dict[Grouping, float]:
    """Whole groupings that the search asked this fitness about, and their values."""
    wanted, found = _words(Question(fitness, "whole")), dict[Key, float]()
    for record in read_log(path):
        if record.get("of") == wanted:
            found.update(zip(_keys(record), record["values"], strict=True))
    rows = {key: np.frombuffer(bytes(key), dtype="<u2").reshape(num_layers, -1).tolist() for key in found}
    return {Grouping.from_labels(rows[key]): value for key, value in found.items()}


def _words(question: Question) -> str:
    return " ".join([question.fitness, question.about, *map(str, question.detail)])


def _items(keys: Sequence[Key]) -> dict[str, Any]:
    """Groups as numbers; groupings, which are many bytes, compressed."""
    groupings = [key for key in keys if isinstance(key, bytes)]
    if not groupings:
        return {"groups": list(keys)}
    return {"labels": base64.b64encode(zlib.compress(b"".join(groupings), level=1)).decode("ascii")}


def _keys(record: dict[str, Any]) -> list[Key]:
    if "groups" in record:
        return list(record["groups"])
    labels = zlib.decompress(base64.b64decode(record["labels"]))
    width = len(labels) // len(record["values"])
    return [labels[start : start + width] for start in range(0, len(labels), width)]
