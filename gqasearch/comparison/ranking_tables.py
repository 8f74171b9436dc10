"""The two answers as tables, made from the folder's files alone."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd

from gqasearch.comparison.comparison_config import NO_SEARCH, ComparisonConfig
from gqasearch.comparison.comparison_folder import ComparisonFolder
from gqasearch.comparison.conditions import Condition, Entry
from gqasearch.comparison.correlation import correlation, kendall, spearman, spread, verdict
from gqasearch.comparison.differences import LEVEL, holm, paired_difference, too_few
from gqasearch.comparison.sample_quality import EVEN, KL, ODD, PERPLEXITY, Pool, pools
from gqasearch.comparison.values import FITNESS, QUALITY, Column, Values
from gqasearch.files import read_json
from gqasearch.fitness import make_fitness
from gqasearch.grouping_document import read_grouping
from gqasearch.pairwise import FloatArray
from gqasearch.reporting.comparison import NOTHING
from gqasearch.run.run_folder import RunFolder
from gqasearch.steps.measure import CONVERTED

# The row that says how far the text itself can tell groupings apart.
CEILING = "KL, other half of text"
Row = dict[str, Any]


def _facts(condition: Condition, refine: str) -> Row:
    return {"merge": condition.merge, "refine": refine, "kv_ratio": condition.kv_ratio}


def ranking_frame(config: ComparisonConfig, folder: ComparisonFolder) -> pd.DataFrame:
    """Does a fitness rank as quality does? A row per merge, KV ratio, pool, fitness and quality."""
    rows: list[Row] = []
    for condition in config.conditions() if config.sample else ():
        values = Values(folder.values(condition))
        for pool in pools(config, folder, condition):
            facts = {
                **_facts(condition, config.ranked_refine(condition)),
                "pool": pool.name,
                "groupings": len(pool),
            }
            rows += [{**facts, **row} for row in _ranking_rows(config, values, pool)]
    return pd.DataFrame(rows)


def _ranking_rows(config: ComparisonConfig, values: Values, pool: Pool) -> Iterator[Row]:
    def read(kind: str, name: str) -> FloatArray:
        return values.column(Column(pool.name, kind, name), len(pool))

    for name in config.fitness:
        for quality in (KL, PERPLEXITY):
            yield {
                "fitness": name,
                "quality": quality,
                **_correlations(config, read(FITNESS, name), read(QUALITY, quality)),
            }
    yield {"fitness": CEILING, "quality": KL, **_correlations(config, read(QUALITY, EVEN), read(QUALITY, ODD))}


def _correlations(config: ComparisonConfig, x: FloatArray, y: FloatArray) -> Row:
    row: Row = {}
    for name, statistic in (("spearman", spearman), ("kendall", kendall)):
        # The same resamples for every fitness: their intervals can be held against each other.
        found = correlation(statistic, x, y, np.random.default_rng(config.sample_seed))
        row |= {name: found.value, f"{name}_low": found.low, f"{name}_high": found.high}
        if name == "spearman":
            row["verdict"] = verdict(found)
    return {**row, "spread": spread(x)}


def sample_frame(config: ComparisonConfig, folder: ComparisonFolder) -> pd.DataFrame:
    """Every grouping that was ranked: its held-out quality and the value of every fitness."""
    rows: list[Row] = []
    for condition in config.conditions() if config.sample else ():
        values = Values(folder.values(condition))
        facts = _facts(condition, config.ranked_refine(condition))
        for pool in pools(config, folder, condition):
            columns = {f"held_out_{name}": (QUALITY, name) for name in (KL, PERPLEXITY)}
            columns |= {name: (FITNESS, name) for name in config.fitness}
            found = {name: values.column(Column(pool.name, *key), len(pool)) for name, key in columns.items()}
            for index, one in enumerate(pool.sample):
                where = {"pool": pool.name, "grouping": index, "met_by": " ".join(one.met_by)}
                rows.append({**facts, **where, **{name: column[index] for name, column in found.items()}})
    return pd.DataFrame(rows)


def winners_frame(config: ComparisonConfig, folder: ComparisonFolder, entries: tuple[Entry, ...]) -> pd.DataFrame:
    """Does optimising it give better models? A row per merge, KV ratio and entry, the best of a condition first.

    Differences are of the KL per block of held-out text, mean over seeds, in pairs of the same block; p is Wilcoxon's,
    adjusted by Holm over the entries of the condition.
    """
    rows: list[Row] = []
    for condition in config.conditions() if config.seeds else ():
        facts = _facts(condition, config.refine(condition))
        found = {entry: _Winners(config, folder, condition, entry) for entry in (NO_SEARCH, *entries)}
        ordered = sorted(found, key=lambda entry: found[entry].kl)
        against = {"no_search": found[NO_SEARCH].blocks, "best": found[ordered[0]].blocks}
        mine = [{**facts, **found[entry].row()} for entry in ordered]
        for name, reference in against.items():
            _add_differences(mine, name, [found[entry].blocks for entry in ordered], reference, config.sample_seed)
        few = too_few(len(against["best"]), len(entries))
        rows += [{**row, "verdict": _winner_verdict(row, len(against["best"]) if few else None)} for row in mine]
    return pd.DataFrame(rows)


class _Winners:
    """The runs of one entry, one per seed."""

    def __init__(self, config: ComparisonConfig, folder: ComparisonFolder, condition: Condition, entry: Entry) -> None:
        self.entry = entry
        seeds = range(config.seeds if entry.fitness else 1)
        self.runs: list[RunFolder] = [folder.run(condition, entry, seed) for seed in seeds]
        self.metrics = [read_json(one.metrics) for one in self.runs]
        self.results = [metrics["results"][CONVERTED] for metrics in self.metrics]
        self.needs = make_fitness(entry.fitness).needs if entry.fitness else NOTHING

    @property
    def kl(self) -> float:
        return float(np.mean([result["kl"] for result in self.results]))

    @cached_property
    def blocks(self) -> FloatArray:
        """KL per block, mean over seeds, (B,)."""
        per_seed: FloatArray = np.array([result["kl_blocks"] for result in self.results], dtype=np.float64)
        mean: FloatArray = per_seed.mean(axis=0)
        return mean

    def row(self) -> Row:
        kls = [result["kl"] for result in self.results]
        documents = [read_grouping(one.grouping) for one in self.runs]
        return {
            "fitness": self.entry.label,
            "method": self.entry.method,
            "needs": self.needs,
            "seeds": len(kls),
            "different_groupings": len({document.grouping for document in documents}),
            "kl": self.kl,
            "kl_lowest": min(kls),
            "kl_highest": max(kls),
            "perplexity": float(np.mean([result["perplexity"] for result in self.results])),
            # Of the first seed: the others know what it measured.
            "seconds": float(self.metrics[0]["seconds"]["search"]),
            "evaluations": float(np.mean([document.search.evaluations for document in documents if document.search])),
            "forward_tokens": float(self.metrics[0]["forward_tokens"]),
        }


def _add_differences(rows: list[Row], name: str, blocks: list[FloatArray], reference: FloatArray, seed: int) -> None:
    """What each differs from a reference by; p is adjusted over all but the reference itself."""
    found = [paired_difference(mine, reference, np.random.default_rng(seed)) for mine in blocks]
    others = [index for index, mine in enumerate(blocks) if mine is not reference]
    adjusted = dict(zip(others, holm([found[index].p for index in others]), strict=True))
    for index, (row, one) in enumerate(zip(rows, found, strict=True)):
        row |= {f"vs_{name}": one.mean, f"vs_{name}_low": one.low, f"vs_{name}_high": one.high}
        row[f"vs_{name}_p"] = adjusted.get(index, 1.0)


def _winner_verdict(row: Row, few: int | None) -> str:
    """``few``: blocks of text, where they are too few for any p below ``LEVEL``."""
    if row["needs"] == NOTHING:
        return "no search"
    if few is not None:
        return f"too few blocks to tell ({few})"
    if row["vs_no_search_p"] >= LEVEL:
        words = "no better"
    else:
        words = "better" if row["vs_no_search"] < 0 else "worse"
    if row["vs_best"] <= 0:
        return f"{words}, the best"
    return f"{words}, not told from the best" if row["vs_best_p"] >= LEVEL else words
