"""What stages save: tokens that candidates are run on until a search has a certain KL on held-out text."""

from __future__ import annotations

import math
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field, replace
from functools import partial
from multiprocessing import get_context
from typing import Any

import pandas as pd
import torch

from experiments.quality.bench import Options, workspace
from gqasearch.cli.messages import quiet_libraries
from gqasearch.evaluation import ParentLogProbs, model_runner
from gqasearch.grouping import Grouping
from gqasearch.refining import Outputs
from gqasearch.steps import Workspace
from gqasearch.steps.search import BegunSearch
from gqasearch.steps.search_problem import build_problem, guide_errors
from gqasearch_fitness.kl import PreparedKL

RATIO = 0.25
MOST_TOKENS, QUICK_TOKENS = 2_000_000, 200_000
HELD_OUT_TOKENS, REFIT_TOKENS = 32_768, 16_384
STAGED, UNSTAGED = "staged", "unstaged"


def measure(options: Options) -> pd.DataFrame:
    """One line per seed, search and generation that found a better grouping: tokens that candidates were run on so
    far, the best KL on the search text, and that grouping's on held-out text, W_o refitted.

    Layers share the KV ratio. Unstaged search is the same search with a first stage that has all the text. It ends
    with the generation that reaches ``MOST_TOKENS``; staged search, where it is as good on held-out text as unstaged
    search ended, or else there too.
    """
    _workspace(options).statistics  # noqa: B018 - cached, before several processes ask for them
    rows: list[dict[str, Any]] = []
    with ProcessPoolExecutor(options.workers, mp_context=get_context("spawn")) as pool:
        for found in pool.map(partial(compare, options), range(options.seeds)):
            rows += found
            print(f"seed {found[0]['seed']}: {len(found)} groupings measured on held-out text", flush=True)
    return pd.DataFrame(rows)


def compare(options: Options, seed: int) -> list[dict[str, Any]]:
    """Both searches of one seed, on one core: the seeds share the others."""
    torch.set_num_threads(1)
    quiet_libraries(0)
    work = _workspace(options)
    held_out = HeldOut.of(work)
    most = QUICK_TOKENS if options.quick else MOST_TOKENS
    whole = list(climb(work, held_out, seed, most, {"first_tokens": work.blocks("search").tokens}))
    staged = climb(work, held_out, seed, most, {}, goal=whole[-1]["held_out_kl"])
    return [{"seed": seed, "search": UNSTAGED, **row} for row in whole] + [
        {"seed": seed, "search": STAGED, **row} for row in staged
    ]


def _workspace(options: Options) -> Workspace:
    """Candidates are ranked with W_o refitted, on all of the text too: descents of every layer of every candidate
    would be most of what the unstaged search costs, and none of its tokens.
    """
    settings = {"kv_ratio": RATIO, "uneven": True, "method": "staged", "objectives": ["kl"]}
    ranking = {"fitness_parameters": {"descent_steps": 0}}
    return workspace(options, **settings, **ranking, evaluation_tokens=HELD_OUT_TOKENS)


def climb(
    work: Workspace, held_out: HeldOut, seed: int, most: int, parameters: dict[str, Any], goal: float = -math.inf
) -> Iterator[dict[str, Any]]:
    """A search's best groupings, until ``most`` tokens or a held-out KL of ``goal``; and where it then stood."""
    work = work.settled({"method": "staged", "method_parameters": parameters, "seed": seed})
    # Bound anew, not shared: a search must pay for its own tokens.
    prepared = {name: fitness.prepare(work.context()) for name, fitness in work.fitnesses.items()}
    fitness = prepared["kl"]
    if not isinstance(fitness, PreparedKL):
        raise TypeError("the fitness kl is not the built-in one")
    problem = replace(build_problem(work, prepared, work.method), guide=held_out.guide)
    known: Grouping | None = None
    for generation in BegunSearch(work, prepared, problem).generations():
        tokens, best = fitness.losses.tokens_run, generation.best
        if best.grouping != known:
            known, kl = best.grouping, held_out.kl(best.grouping)
            yield {
                "generation": generation.index,
                "tokens": tokens,
                "search_kl": best.values[0],
                "held_out_kl": kl,
            }
            if kl <= goal:
                return
        if tokens >= most:
            return


@dataclass(frozen=True)
class HeldOut:
    """KL of groupings on held-out text. ``guide``: the merge errors that all searches of a workspace share."""

    work: Workspace
    reference: ParentLogProbs
    guide: tuple[Any, ...]
    known: dict[Grouping, float] = field(default_factory=dict)

    @classmethod
    def of(cls, work: Workspace) -> HeldOut:
        """On the workspace's evaluation text."""
        runner, blocks = model_runner(work.parent.model), work.blocks("evaluation")
        reference = ParentLogProbs.compute(runner, blocks, batch_blocks=work.config.batch_blocks, exact_bytes=2**29)
        return cls(work, reference, guide_errors(work))

    def kl(self, grouping: Grouping) -> float:
        """After ``outputs``, fitted on some of the calibration text."""
        if grouping not in self.known:
            converter, blocks = self.work.converter, self.work.blocks("calibration").first(REFIT_TOKENS)
            refined = converter.refine(grouping, blocks, Outputs(), batch_blocks=self.work.config.batch_blocks)
            self.known[grouping] = self.reference.mean_kl(converter.runner(grouping, refined))
        return self.known[grouping]


def summary(rows: pd.DataFrame) -> pd.DataFrame:
    """Per seed the held-out KL that unstaged search ended with, and the tokens until each search first had it."""
    found = []
    for seed, part in rows.groupby("seed", sort=True):
        whole, staged = part[part["search"] == UNSTAGED], part[part["search"] == STAGED]
        goal = whole["held_out_kl"].iloc[-1]
        needed = [_first_tokens(one, goal) for one in (whole, staged)]
        found.append([str(seed), goal, *needed, needed[1] / needed[0]])
    table = pd.DataFrame(
        found, columns=["seed", "held-out KL", "tokens unstaged", "tokens staged", "staged / unstaged"]
    )
    table.loc[len(table)] = ["median", *table.drop(columns="seed").median()]
    return table


def _first_tokens(rows: pd.DataFrame, goal: float) -> float:
    """Tokens at the first grouping with this held-out KL; infinite where there is none."""
    reached = rows[rows["held_out_kl"] <= goal]
    return float(reached["tokens"].iloc[0]) if len(reached) else math.inf
