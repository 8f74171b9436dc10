"""A made-up comparison, as ``gqasearch.comparison`` would report it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from gqasearch.reporting import TextUse
from gqasearch.reporting.comparison import NOTHING, ComparisonData

FITNESS = ("activation-cosine", "attention-output-error", "kl", "merge-error", "perplexity", "weight-sharing-error")
STRENGTH = (-0.4, 0.8, 0.97, 0.85, 0.9, 0.05)
Row = dict[str, Any]


def comparison_data(
    fitness: Sequence[str] = FITNESS, merges: Sequence[str] = ("optimal",), ratios: Sequence[float] = (0.5, 0.25)
) -> ComparisonData:
    rng = np.random.default_rng(0)
    ranking: list[Row] = []
    sample: list[Row] = []
    winners: list[Row] = []
    for ratio in ratios:
        for merge in merges:
            facts = {"merge": merge, "refine": "none", "kv_ratio": ratio}
            for pool, size in (("random", 40), ("top", 18)):
                ranking += [{**facts, "pool": pool, "groupings": size, **row} for row in _ranking(fitness, rng)]
                sample += [{**facts, "pool": pool, **row} for row in _sample(fitness, size, rng)]
            winners += [{**facts, **row} for row in _winners(fitness, rng)]
    return ComparisonData(
        title="embedded: which fitness predicts quality?",
        ranking=pd.DataFrame(ranking),
        sample=pd.DataFrame(sample),
        winners=pd.DataFrame(winners),
        rules=("blind: the interval holds 0.",),
        notes=("Ranked models were refined by (optimal: none).",),
        texts=(TextUse("held-out", "embedded, evaluation part", 8192, "quality"),),
        configuration="fitness: [kl]\n",
        environment={"python": "3.11", "torch": "2.13.0"},
    )


def _ranking(fitness: Sequence[str], rng: np.random.Generator) -> list[Row]:
    rows = []
    for name, strength in zip([*fitness, "KL, other half of text"], [*STRENGTH[: len(fitness)], 0.9], strict=True):
        for quality in ("kl", "perplexity") if name in fitness else ("kl",):
            middle = strength + rng.normal(0, 0.02)
            row: Row = {"fitness": name, "quality": quality, "spread": 0.004 if strength == 0.05 else 0.3}
            for kind, factor in (("spearman", 1.0), ("kendall", 0.8)):
                row |= {
                    kind: factor * middle,
                    f"{kind}_low": factor * middle - 0.2,
                    f"{kind}_high": factor * middle + 0.1,
                }
            word = "strong" if strength > 0.8 else "misleading" if strength < 0 else "blind"
            rows.append({**row, "verdict": word})
    return rows


def _sample(fitness: Sequence[str], size: int, rng: np.random.Generator) -> list[Row]:
    kl = 0.2 + 0.1 * rng.random(size)
    columns: Row = {"held_out_kl": kl, "held_out_perplexity": 15 + 10 * kl}
    for name, strength in zip(fitness, STRENGTH, strict=False):
        columns[name] = strength * kl + (1 - abs(strength)) * 0.1 * rng.random(size)
    return [
        {"grouping": index, "met_by": "", **{name: float(column[index]) for name, column in columns.items()}}
        for index in range(size)
    ]


def _winners(fitness: Sequence[str], rng: np.random.Generator) -> list[Row]:
    rows = []
    for name in [*fitness, "neighbour (no search)"]:
        kl = 0.15 + 0.05 * rng.random()
        needs = NOTHING if name.startswith("neighbour") else "statistics"
        row: Row = {
            "fitness": name,
            "method": "neighbour" if needs == NOTHING else "evolution",
            "needs": needs,
            "seeds": 1 if needs == NOTHING else 3,
            "different_groupings": 1 if needs == NOTHING else 3,
            "kl": kl,
            "kl_lowest": kl if needs == NOTHING else kl - 0.004,
            "kl_highest": kl if needs == NOTHING else kl + 0.006,
            "perplexity": 15.2,
            "seconds": 12.3,
            "evaluations": 4321.0,
            "forward_tokens": 123456.0,
            "verdict": "no search" if needs == NOTHING else "better",
        }
        for what, reference in (("no_search", 0.19), ("best", 0.16)):
            gap = 0.0 if needs == NOTHING and what == "no_search" else kl - reference
            row |= {f"vs_{what}": gap, f"vs_{what}_low": gap and gap - 0.004, f"vs_{what}_high": gap and gap + 0.004}
            row[f"vs_{what}_p"] = 0.012
        rows.append(row)
    return sorted(rows, key=lambda row: row["kl"])
