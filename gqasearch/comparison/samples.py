"""Groupings to rank: random ones, and the best ones that searches meet, among which a search has to choose."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path

import numpy as np

from gqasearch.budget import Budget
from gqasearch.errors import UserError
from gqasearch.files import read_json, write_file
from gqasearch.grouping import Grouping, LayerGrouping
from gqasearch.searching import Candidate, Problem
from gqasearch.searching.operators import random_counts, random_partition

# Random draws in a row that may all be known already before the space counts as used up.
PATIENCE = 200


def random_groupings(budget: Budget, count: int, rng: np.random.Generator) -> list[Grouping]:
    """``count`` different random groupings within ``budget``, fewer where there are not as many."""
    found: dict[Grouping, None] = {}
    failures = 0
    while len(found) < count and failures < PATIENCE:
        known = len(found)
        counts = random_counts(budget, free_counts=False, rng=rng)
        found.setdefault(Grouping(tuple(random_partition(groups, budget, rng) for groups in counts)))
        failures = failures + 1 if len(found) == known else 0
    return list(found)


@dataclass
class Met:
    """Every partition of a layer that a search evaluated, and its error; layer by layer."""

    layers: dict[int, dict[LayerGrouping, float]] = field(default_factory=dict)

    def note(self, layer: int, candidates: Iterable[Candidate]) -> None:
        known = self.layers.setdefault(layer, {})
        for candidate in candidates:
            known.setdefault(candidate.grouping.layers[0], candidate.values[0])

    def best(self, layer: int, like: LayerGrouping, count: int) -> list[LayerGrouping]:
        """The ``count`` best of a layer with as many groups as ``like``, and that one at least; best first."""
        found = self.layers.get(layer, {})
        same = [one for one in found if one.num_groups == like.num_groups and one != like]
        return [like, *sorted(same, key=found.__getitem__)][:count]


@dataclass(frozen=True)
class WatchedProblem(Problem):
    """A problem whose layers tell ``met`` what is evaluated."""

    met: Met = field(default_factory=Met)
    layer: int | None = None

    @classmethod
    def of(cls, problem: Problem, met: Met, layer: int | None = None) -> WatchedProblem:
        return cls(**{one.name: getattr(problem, one.name) for one in fields(Problem)}, met=met, layer=layer)

    def layer_problem(self, layer: int, *, free_counts: bool = False) -> WatchedProblem:
        return WatchedProblem.of(super().layer_problem(layer, free_counts=free_counts), self.met, layer)

    def evaluate(self, groupings: Sequence[Grouping]) -> list[Candidate]:
        found = super().evaluate(groupings)
        if self.layer is not None:
            self.met.note(self.layer, found)
        return found


def top_of_layers(winner: Grouping, met: Met, count: int, rng: np.random.Generator) -> list[Grouping]:
    """The winner, and groupings of which every layer is one of the ``count`` best that the search met there."""
    choices = [met.best(index, layer, count) for index, layer in enumerate(winner)]
    found = {winner: None}
    for _ in range(PATIENCE):
        if len(found) >= count:
            break
        found.setdefault(Grouping(tuple(layers[int(rng.integers(len(layers)))] for layers in choices)))
    return list(found)


def top_of_values(winner: Grouping, values: dict[Grouping, float], count: int) -> list[Grouping]:
    """The winner, and the best groupings that a search of whole models evaluated."""
    return list(dict.fromkeys([winner, *sorted(values, key=values.__getitem__)]))[:count]


@dataclass(frozen=True)
class Sampled:
    """A grouping to rank, and the names of the fitness functions whose searches met it; none for a random one."""

    grouping: Grouping
    met_by: tuple[str, ...] = ()


def together(found: dict[str, list[Grouping]]) -> list[Sampled]:
    """One pool of what several searches met, each grouping once; ``found``: fitness -> groupings."""
    met_by: dict[Grouping, list[str]] = {}
    for name, groupings in found.items():
        for grouping in groupings:
            met_by.setdefault(grouping, []).append(name)
    return [Sampled(grouping, tuple(names)) for grouping, names in met_by.items()]


def write_sample(path: Path, sample: Sequence[Sampled]) -> None:
    """As JSON: labels of every layer, (L, H), per grouping."""
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = [
        json.dumps({"labels": [list(layer.labels) for layer in one.grouping], "met_by": list(one.met_by)})
        for one in sample
    ]
    body = ",\n  ".join(lines)
    write_file(path, f'{{"format": "gqasearch-sample", "version": 1, "groupings": [\n  {body}\n]}}\n', overwrite=True)


def read_sample(path: Path) -> list[Sampled]:
    """The inverse of :func:`write_sample`."""
    try:
        rows = read_json(path)["groupings"]
        return [Sampled(Grouping.from_labels(row["labels"]), tuple(row["met_by"])) for row in rows]
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f"{path} is no sample of groupings: {error}") from None
