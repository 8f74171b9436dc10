"""Evolution of groupings, the default method."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from gqasearch.group_errors import SetErrors
from gqasearch.searching.evolution.curve_run import CurveRun
from gqasearch.searching.evolution.evolution_parameters import EvolutionParameters
from gqasearch.searching.evolution.evolution_run import EvolutionRun
from gqasearch.searching.evolution.screened_curve_run import ScreenedCurveRun
from gqasearch.searching.problem import Generation, Problem


@dataclass(frozen=True)
class Evolution(EvolutionParameters):
    """(mu + lambda) evolution of partitions; NSGA-II survival for several objectives.

    ``population`` survivors have ``offspring`` children a generation. A child comes from a crossover with
    chance ``crossover_rate`` and is then mutated with chance ``mutation_rate``; the others are mutants of
    one parent. ``swap``, ``move``, ``merge_split`` and ``shift`` say how often each mutation is drawn,
    relative to the others; ``shift`` only counts where the numbers of groups may change.

    The ``local_individuals`` best children of a generation then go to a better neighbour at most ``local_steps``
    times each, which looks at hundreds of neighbours. None stands for what a neighbour's price suggests: all
    children for pairwise errors, 4 elsewhere; 100 steps where the objective is a sum over groups, and 0 elsewhere,
    as for one that runs the model. Where the whole error-against-groups curve of a layer is traced, every number
    of groups has ``niche`` survivors and ``niche`` children in place of ``population`` and ``offspring``, and all
    children descend. Where each group's error has to be computed and there are more groups than ``max_groups``, a model
    fitted to the errors known says which are worth asking for, of ``looks`` neighbours at a time, and that number is
    the most ever asked for (None: no limit, and no model).

    Ends after ``generations``, after ``patience`` of them in a row without a better candidate, with
    ``max_evaluations``, or when the operators find nothing that was not evaluated yet.
    """

    reference: ClassVar[str] = "https://doi.org/10.1007/BF00226291"
    summary: ClassVar[str] = "memetic evolution with operators on partitions; NSGA-II for several objectives"
    multi_objective: ClassVar[bool] = True
    traces_curve: ClassVar[bool] = True

    def search(self, problem: Problem, rng: np.random.Generator) -> Iterator[Generation]:
        return self._run(problem, rng).generations()

    def _run(self, problem: Problem, rng: np.random.Generator) -> EvolutionRun:
        errors = problem.layer_errors
        if errors is None or not problem.free_counts or problem.num_layers > 1:
            return EvolutionRun(self, problem, rng)
        few = self.max_groups is not None and 2**problem.num_heads > self.max_groups
        return (ScreenedCurveRun if few and isinstance(errors[0], SetErrors) else CurveRun)(self, problem, rng)
