"""Staged evolution: whole models on parts of the text."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from gqasearch.searching._base import HeadFact
from gqasearch.searching.problem import Generation, Problem
from gqasearch.searching.staged.staged_parameters import StagedParameters
from gqasearch.searching.staged.staged_run import StagedRun


@dataclass(frozen=True)
class Staged(StagedParameters):
    """(mu + lambda) evolution of all layers together, on an objective that runs the converted model.

    A generation's ``offspring`` are run on ``first_tokens`` tokens, drawn anew and the same for all of them; the best
    1 / ``reduction`` of them on ``reduction`` times as many, and so on, the last on the whole search text, where
    all survivors were measured too (EvoPress, section 3: sums of layer errors misorder models).
    Survival is by rank, or NSGA-II's with the KV ratio as second objective; of ``population`` candidates (None: 4, or
    24 with several objectives, where a front needs the room).

    Starts: partitions that a cheap error of the merge (``guide``) finds best for every number of groups; the budget
    split evenly, exactly by that error, and exactly by the error times what one layer alone was measured to do to
    the model on ``first_tokens``, at ``sensitivity_levels`` numbers of groups a layer (0: not measured): level by
    level, and the mean of a layer.

    A child comes from an exchange of layers with chance ``crossover_rate``, else from mutation: weights ``switch``
    (one layer gets a group, another gives one), ``swap``, ``move``, ``merge_split``. Where layers keep their counts
    nothing is switched. Layers are drawn by how little it costs to run the model from there on.
    Ends after ``generations``, after ``patience`` of them without a new best (or front), or where a
    generation begins more than ``max_seconds`` after the start: then, and only then, a result depends on the machine.
    Where the objective only stands in for what the refined model will lose, the ``finalists`` best survivors and the
    guide's own split are then refined as the result will be, and the best of them is the result (0: the objective
    decides; so it does where there are several objectives). A run's own ``max_evaluations`` and ``max_seconds``, which
    stop any method, stop this one before that.
    """

    reference: ClassVar[str] = "https://arxiv.org/abs/2410.14649"
    summary: ClassVar[str] = "whole-model evolution on KL or perplexity, many candidates on few tokens, few on many"
    multi_objective: ClassVar[bool] = True
    by_layer: ClassVar[bool] = False
    on_parts: ClassVar[bool] = True
    needs: ClassVar[frozenset[HeadFact]] = frozenset({"guide"})

    def search(self, problem: Problem, rng: np.random.Generator) -> Iterator[Generation]:
        return StagedRun(self, problem, rng).generations()
