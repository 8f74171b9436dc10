"""Searches that keep a log, to be killed at any moment."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from gqasearch.budget import Budget
from gqasearch.files import write_file
from gqasearch.searching import PairwiseErrors, Problem, make_method
from gqasearch.searching.runner import run_search
from tests.searching.logged import logged
from tests.searching.problems import Pairwise
from tests.searching.text_problems import NoisyText

# Small enough to end soon, long enough to be hit.
PARAMETERS: dict[str, dict[str, Any]] = {
    "evolution": {"population": 6, "offspring": 5, "patience": 20, "local_individuals": 1, "local_steps": 1},
    "qcqa-ac": {"population": 8, "generations": 60},
    "qcqa-ec": {"population": 8, "generations": 60},
    "asymgqa": {"iterations": 6},
    "random": {"samples": 300, "batch": 10},
    "k-means": {"restarts": 60},
    "hill-climb": {"restarts": 4, "swaps": 4000},
    "annealing": {"chains": 2, "steps": 4000},
    "deap-stock": {"population": 8, "generations": 12},
    "tpe": {"trials": 24, "batch": 2},
    "cma-es": {"trials": 40, "batch": 4},
    "staged": {"offspring": 6, "generations": 30, "patience": 30, "first_tokens": 100},
}
HEADS, LAYERS = 12, 3


def problem_for(method: str) -> Problem:
    """Three layers of twelve heads, with what any method may ask about them."""
    functions = [Pairwise(HEADS, seed) for seed in range(LAYERS)]
    errors = tuple(PairwiseErrors(function.distances) for function in functions)

    def total(groupings: Any) -> np.ndarray:
        parts = [[function.of(layer) for function, layer in zip(functions, g, strict=True)] for g in groupings]
        return np.array(parts).sum(axis=1)

    # Staged evolution is for what runs a model, which is no sum over groups.
    staged = method == "staged"
    return Problem(
        {"error": total},
        Budget((4,) * LAYERS, HEADS, movable=staged or method.startswith("qcqa")),
        layer_errors=None if staged else errors,
        guide=errors,
        partial=NoisyText(total),
        similarity=np.stack([-function.distances for function in functions]),
        norms=np.stack([function.distances[0] for function in functions]),
    )


def search(method: str, folder: Path | None = None, pause: float = 0.0) -> list[str]:
    """The bits of every generation, made again from the log in the folder as far as that goes."""
    lines: list[str] = []
    chosen, rng, problem = (
        make_method(method, PARAMETERS.get(method, {})),
        np.random.default_rng(5),
        problem_for(method),
    )
    if folder is not None:
        problem, _ = logged(problem, folder / f"{method}.log", [])
    for generation in run_search(chosen, problem, rng):
        best = generation.best
        lines.append(f"{generation.index} {generation.evaluations} {best.values[0].hex()} {best.grouping.layers}")
        if folder is not None:
            write_file(folder / f"{method}.json", json.dumps({"lines": lines}), overwrite=True)
            time.sleep(pause)
    if folder is not None:
        write_file(folder / f"{method}.done", "", overwrite=True)
    return lines


def search_all(folder: Path, methods: Sequence[str]) -> None:
    """One after the other, those that are done left out."""
    for name in methods:
        if not (folder / f"{name}.done").exists():
            search(name, folder, pause=0.02)
