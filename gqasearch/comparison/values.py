"""What was measured of a sample, one number a line, written whenever some arrive."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from gqasearch.errors import UserError
from gqasearch.files import write_file

COLUMNS = ("pool", "grouping", "kind", "name", "value")
QUALITY, FITNESS = "quality", "fitness"


@dataclass(frozen=True)
class Column:
    """One measure of one pool: a quality or a fitness of its groupings."""

    pool: str
    kind: str
    name: str


class Values:
    """Numbers by column and place in the pool, and the file that holds them."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._known: dict[Column, dict[int, float]] = {}
        if path.is_file():
            self._read()

    def missing(self, column: Column, size: int) -> list[int]:
        """Places of a pool of ``size`` that are not measured yet."""
        known = self._known.get(column, {})
        return [index for index in range(size) if index not in known]

    def column(self, column: Column, size: int) -> NDArray[np.float64]:
        """All of a column, (size,)."""
        if absent := self.missing(column, size):
            raise UserError(f"{self.path} is unfinished: {column.name} of {len(absent)} groupings is not there")
        return np.array([self._known[column][index] for index in range(size)], dtype=np.float64)

    def add(self, column: Column, places: Sequence[int], values: Iterable[float]) -> None:
        """Take up numbers; ``save`` writes them."""
        self._known.setdefault(column, {}).update(zip(places, map(float, values), strict=True))

    def save(self) -> None:
        """Write everything, whole or not at all; numbers come back with the same bits."""
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(COLUMNS)
        for column, known in self._known.items():
            for index in sorted(known):
                writer.writerow((column.pool, index, column.kind, column.name, repr(known[index])))
        self.path.parent.mkdir(parents=True, exist_ok=True)
        write_file(self.path, text.getvalue(), overwrite=True)

    def _read(self) -> None:
        try:
            with self.path.open(encoding="utf-8", newline="") as file:
                reader = csv.DictReader(file)
                for row in reader:
                    column = Column(row["pool"], row["kind"], row["name"])
                    self._known.setdefault(column, {})[int(row["grouping"])] = float(row["value"])
        except (OSError, KeyError, TypeError, ValueError) as error:
            raise UserError(f"{self.path} is damaged: {error!r}; remove it to measure again") from None
