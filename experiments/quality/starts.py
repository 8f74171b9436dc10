"""Where staged search begins: splits of the budget, and the tokens it takes to weigh them by measured sensitivity."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
import pandas as pd

from experiments.quality.bench import Options, workspace
from gqasearch.grouping import Grouping
from gqasearch.pairwise import FloatArray
from gqasearch.searching import Problem
from gqasearch.searching.staged.guide import GuideTable, trace_guide
from gqasearch.searching.staged.sensitivity import measure_sensitivity
from gqasearch.steps.search_problem import build_problem, prepare_fitness

TOKENS = (1024, 4096, 16384)
LEVELS = (3, 4, 6, 11)
DRAWS = 9
SEARCH: dict[str, Any] = {
    "uneven": True,
    "method": "staged",
    "objectives": ["kl"],
    "fitness_parameters": {"descent_steps": 0},
}
READINGS = ("level by level", "mean of a layer")
EVEN, ERRORS = "even", "split by errors"


def measure(options: Options) -> pd.DataFrame:
    """One line per ratio, reading, number of levels, tokens and drawing of the text that sensitivities are measured on:
    the KL on all of the search text, W_o refitted: descents would cost most of the time here.
    """
    rows: list[dict[str, Any]] = []
    for ratio in options.ratios:
        work = workspace(options, kv_ratio=ratio, **SEARCH)
        problem = build_problem(work, prepare_fitness(work), work.method)
        rng = np.random.default_rng(0)
        if problem.guide is None:
            raise TypeError("the fitness kl has no guide")
        starts = Starts(problem, trace_guide(problem.guide, problem.budget, rng))
        mine = [{"ratio": ratio, **row} for row in starts.rows(rng, 2 if options.quick else DRAWS)]
        print(f"{ratio:g}: {len(mine)} splits", flush=True)
        rows += mine
    return pd.DataFrame(rows)


@dataclass
class Starts:
    """Splits of one budget. ``known``: grouping -> its KL on every batch of the search text, (batches,)."""

    problem: Problem
    table: GuideTable
    known: dict[Grouping, FloatArray] = field(default_factory=dict)

    def rows(self, rng: np.random.Generator, draws: int) -> Iterator[dict[str, Any]]:
        """All splits; as many drawings of the text as ``draws`` where not all of it is measured on."""
        total, text = self.problem.budget.total, self._batch_tokens
        yield {"split": EVEN, "kl": self._kl(self.table.grouping(self.problem.budget.counts))}
        yield {"split": ERRORS, "kl": self._kl(self.table.split(total))}
        for tokens in sorted({min(tokens, text.sum()) for tokens in TOKENS}):
            whole = tokens == text.sum()
            for draw in range(1 if whole else draws):
                order = rng.permutation(len(text))
                batches = order[: int(np.searchsorted(np.cumsum(text[order]), tokens)) + 1].tolist()
                for levels in LEVELS:
                    measured = measure_sensitivity(self.table, partial(self._on, batches=batches), levels)
                    for reading, weights in zip(READINGS, measured, strict=True):
                        kl = self._kl(self.table.split(total, weights))
                        yield {"split": reading, "levels": levels, "tokens": tokens, "draw": draw, "kl": kl}

    @property
    def _batch_tokens(self) -> FloatArray:
        partial = self.problem.partial
        if partial is None:
            raise TypeError("the objective kl is not measured on parts of its text")
        return np.array(partial.batch_tokens, dtype=np.float64)

    def _on(self, groupings: Sequence[Grouping], batches: Sequence[int]) -> FloatArray:
        """Means over these batches, (N,): each batch is run once, whoever asks."""
        text = self._batch_tokens
        for grouping in groupings:
            if grouping not in self.known:
                parts = (self.problem.evaluate_on([grouping], [batch]) for batch in range(len(text)))
                self.known[grouping] = np.array([part[0].values[0] for part in parts])
        return np.array([np.average(self.known[one][batches], weights=text[batches]) for one in groupings])

    def _kl(self, grouping: Grouping) -> float:
        return float(self._on([grouping], range(len(self._batch_tokens)))[0])


def summary(rows: pd.DataFrame) -> pd.DataFrame:
    """Median and range over drawings of the text; a column per ratio."""
    keys = ["split", "levels", "tokens"]
    table = rows.assign(**{name: rows[name].fillna(0) for name in keys[1:]})
    kl = table.groupby([*keys, "ratio"], sort=False)["kl"].agg(["median", "min", "max", "size"])
    words = kl.apply(_words, axis=1).unstack("ratio", sort=False).reset_index()
    words[keys[1:]] = words[keys[1:]].astype(int).astype(object).replace(0, "")
    return words.rename_axis(columns=None).rename(columns=str)


def _words(row: pd.Series) -> str:
    text = f"{row['median']:.3g}"
    return text if row["size"] == 1 else f"{text} ({row['min']:.3g}-{row['max']:.3g})"
