"""pymoo's NSGA-II on labels, set up as the public QCQA reproduction sets it up; a rival in the benchmark only.

https://github.com/vinayjoshi22/qcqa: two objectives (groups, error), labels 0..G-1 sampled as integers, simulated
binary crossover (chance 0.9) and polynomial mutation with rounding, population 100 (pymoo's default: the size that it
passes is misspelt), no duplicates. Its error multiplies weights by the group's label; here the error is right.

Tuned, as it is a rival: the reproduction passes 1/H as ``PM(prob=...)``, which pymoo reads as the chance that an
individual is mutated at all; 1 (every individual, each label with chance 1/H) is two to three times nearer to the
optimum after 12,000 evaluations. Of populations of 30, 100 and 300, 100 is best at equal sizes, 300 otherwise.
"""

from __future__ import annotations

from collections.abc import Iterator
from importlib.util import find_spec

import numpy as np

from experiments.benchmarks.instances import Instance
from gqasearch.grouping import LayerGrouping
from gqasearch.pairwise import FloatArray, IntArray, pairwise_errors
from gqasearch.searching.operators import repair

POPULATION, POPULATION_AC = 100, 300
CROSSOVER = 0.9
MUTATION = 1.0


def is_installed() -> bool:
    """Whether pymoo is there: it is no dependency of gqasearch (``requirements.txt`` beside this file)."""
    return find_spec("pymoo") is not None


def pymoo_nsga2(instance: Instance, rng: np.random.Generator) -> Iterator[tuple[int, float]]:
    """(evaluations, lowest error so far) after every generation, without end; NaN until a partition is valid.

    Valid: exactly G groups within the bounds. At equal sizes next to no label vector is, so there the error is
    that of the repaired partition (the genome stays as it is), as with DEAP's stock operators.
    """
    from pymoo.algorithms.moo.nsga2 import NSGA2
    from pymoo.core.problem import Problem
    from pymoo.core.termination import NoTermination
    from pymoo.operators.crossover.sbx import SBX
    from pymoo.operators.mutation.pm import PM
    from pymoo.operators.repair.rounding import RoundingRepair
    from pymoo.operators.sampling.rnd import IntegerRandomSampling

    judge = Judge(instance, rng)

    class Labels(Problem):  # type: ignore[misc]  # pymoo ships no types
        def __init__(self) -> None:
            super().__init__(n_var=instance.heads, n_obj=2, xl=0, xu=instance.groups - 1, vtype=int)

        def _evaluate(self, x: IntArray, out: dict[str, FloatArray], *args: object, **kwargs: object) -> None:
            out["F"] = judge.evaluate(np.asarray(x, dtype=np.int64))

    algorithm = NSGA2(
        pop_size=POPULATION if instance.equal_sizes else POPULATION_AC,
        sampling=IntegerRandomSampling(),
        crossover=SBX(prob=CROSSOVER, vtype=float, repair=RoundingRepair()),
        mutation=PM(prob=MUTATION, vtype=float, repair=RoundingRepair()),
        eliminate_duplicates=True,
    )
    algorithm.setup(Labels(), termination=NoTermination(), seed=int(rng.integers(2**31)), verbose=False)
    while True:
        algorithm.next()
        yield judge.evaluations, judge.best


class Judge:
    """Objectives of label vectors, and the lowest error of the valid partitions met."""

    def __init__(self, instance: Instance, rng: np.random.Generator) -> None:
        self._budget, self._groups, self._rng = instance.budget, instance.groups, rng
        self._repairs = instance.equal_sizes
        self._distances = instance.distances()
        self.evaluations = 0
        self.best = float("nan")

    def evaluate(self, labels: IntArray) -> FloatArray:
        """(groups / H, error), (N, 2)."""
        if self._repairs:
            labels = np.array([self._repaired(row) for row in labels.tolist()], dtype=np.int64)
        errors = pairwise_errors(self._distances, labels)
        sizes = (labels[:, :, None] == np.arange(self._groups)).sum(axis=1)
        counts = (sizes > 0).sum(axis=1)
        self.evaluations += len(labels)
        valid = errors[(counts == self._groups) & (sizes.max(axis=1) <= self._budget.largest)]
        self.best = float(np.fmin(self.best, valid.min(initial=np.inf))) if len(valid) else self.best
        return np.stack([counts / labels.shape[1], errors], axis=1)

    def _repaired(self, labels: list[int]) -> tuple[int, ...]:
        groups = LayerGrouping.from_labels(labels).groups
        return repair(groups, self._groups, self._budget, self._rng).labels
