"""Whether ranking candidates after a few steps of healing finds what is best after many.

python -m experiments.healing.ranking            # about ten minutes on one core; goes on where it was stopped
python -m experiments.healing.ranking --quick    # a size too small to mean anything, written nowhere
python -m experiments.healing.ranking --show     # print the committed results

Groupings of the embedded model, merged optimally, W_o refitted: ``kl`` and ``healed-kl`` on the search text, and the KL
on validation text after a longer healing, whose steps read other text than those of ``healed-kl``. Two sets of
candidates: ``spread``, which differ much (neighbours, a split budget, random ones), and ``near``, the best by
``merge-error`` and what random swaps make of it, as in the last stage of a search. Rows go to
``experiments/healing/results/ranking.csv``; printed is Spearman's rank correlation with the KL after healing.
The defaults of ``healed-kl`` were set with these candidates in view: at ``learning_rate`` 0.004 and ``step_tokens`` 512
some good ones got worse by their steps, and it ranked the spread ones at a quarter below ``kl`` (0.69 against 0.76).
"""

from __future__ import annotations

import argparse
from collections.abc import Hashable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from scipy.stats import spearmanr

from experiments.benchmarks.search import show
from experiments.quality.bench import searched
from gqasearch.calibration import TokenBlocks
from gqasearch.cli.messages import quiet_libraries
from gqasearch.config import build_config
from gqasearch.evaluation import ParentLogProbs, model_runner
from gqasearch.files import write_file
from gqasearch.grouping import Grouping, LayerGrouping
from gqasearch.healing import ShortHealing, healed_runner
from gqasearch.searching.operators import random_partition, swap
from gqasearch.steps import Workspace
from gqasearch_fitness.healed_kl import HealedKL
from gqasearch_fitness.kl import KLToParent

RESULTS = Path(__file__).parent / "results" / "ranking.csv"
RATIOS = (0.25, 0.5)
SWAPS = 6  # between the best by merge-error and a candidate near it
LEARNING_RATE = 0.004  # of the longer healing


@dataclass(frozen=True)
class Sizes:
    """Candidates of a set, tokens of the search and the validation text, steps of the longer healing (a block each)."""

    candidates: int = 8
    tokens: int = 4096
    steps: int = 100


QUICK = Sizes(candidates=3, tokens=1024, steps=4)


def candidates(work: Workspace, count: int, rng: np.random.Generator) -> dict[str, list[Grouping]]:
    """Set -> groupings of one KV budget, ``count`` in each."""
    geometry, budget = work.parent.geometry, work.budget
    heads, layers, groups = geometry.num_kv_heads, geometry.num_layers, budget.counts[0]
    split = [groups + 1 if 2 * i < layers - layers % 2 else groups - 1 for i in range(layers)]
    spread = [
        Grouping.uniform(LayerGrouping.neighbours(heads, groups), layers),
        Grouping(tuple(LayerGrouping.neighbours(heads, number) for number in split)),
    ]
    while len(spread) < count:
        spread.append(Grouping(tuple(random_partition(groups, budget, rng) for _ in range(layers))))
    near = [searched(work)]
    while len(near) < count:
        found = near[0]
        for _ in range(SWAPS):
            layer = int(rng.integers(layers))
            found = found.replace_layer(layer, swap(found.layers[layer], rng))
        near.append(found)
    return {"spread": spread, "near": near}


def measure(sizes: Sizes, results: Path | None) -> pd.DataFrame:
    """One line per candidate: ``kl`` and ``healed-kl`` on the search text, ``after`` healing on validation text.

    Written to ``results`` line by line; what is there is not measured again.
    """
    rows: list[dict[Hashable, Any]] = (
        pd.read_csv(results).to_dict("records") if results is not None and results.is_file() else []
    )
    known = {(row["kv_ratio"], row["set"], row["candidate"]) for row in rows}
    for ratio in RATIOS:
        settings = {"kv_ratio": ratio, "refine": "outputs", "evaluation_part": "validation"}
        texts = {"search_tokens": sizes.tokens, "evaluation_tokens": sizes.tokens}
        work = Workspace(build_config({**settings, **texts}))
        rater = Rater(work, sizes)
        for name, groupings in candidates(work, sizes.candidates, np.random.default_rng(0)).items():
            for index, grouping in enumerate(groupings):
                if (ratio, name, index) in known:
                    continue
                rows.append({"kv_ratio": ratio, "set": name, "candidate": index, **rater(grouping)})
                if results is not None:
                    write_file(results, pd.DataFrame(rows).to_csv(index=False, float_format="%.6f"), overwrite=True)
    return pd.DataFrame(rows)


class Rater:
    """Rates candidates of one workspace in all three ways."""

    def __init__(self, work: Workspace, sizes: Sizes) -> None:
        context = work.context()
        self.kl = KLToParent(tokens=sizes.tokens).prepare(context)
        self.healed_kl = HealedKL(tokens=sizes.tokens).prepare(context)
        validation: TokenBlocks = work.blocks("evaluation")
        self.reference = ParentLogProbs.compute(model_runner(work.parent.model), validation)
        text = work.blocks("calibration")
        self.longer = ShortHealing.on(work.parent, text, steps=sizes.steps, learning_rate=LEARNING_RATE, batch_blocks=1)

    def __call__(self, grouping: Grouping) -> dict[Hashable, float]:
        """Column -> KL."""
        converted = self.healed_kl.losses.converted_layer
        model = self.longer.heal(grouping, {i: converted(i, layer) for i, layer in enumerate(grouping)})
        return {
            "kl": float(self.kl.evaluate([grouping])[0]),
            "healed-kl": float(self.healed_kl.evaluate([grouping])[0]),
            "after": self.reference.mean_kl(healed_runner(model)),
        }


def summary(rows: pd.DataFrame) -> pd.DataFrame:
    """Per budget and set: the range of the KL after healing, and how each fitness ranks it."""
    lines: list[dict[str, object]] = []
    for (ratio, name), found in rows.groupby(["kv_ratio", "set"], sort=False):
        after = found["after"]
        ranks = {fitness: float(spearmanr(found[fitness], after).statistic) for fitness in ("kl", "healed-kl")}
        lost = {f"{fitness} picks": float(after.to_numpy()[found[fitness].to_numpy().argmin()]) for fitness in ranks}
        lines.append(
            {"kv_ratio": ratio, "set": name, "best after": after.min(), "worst after": after.max(), **ranks, **lost}
        )
    return pd.DataFrame(lines)


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a size that means nothing, written nowhere")
    parser.add_argument("--show", action="store_true", help="print the committed results")
    arguments = parser.parse_args()
    quiet_libraries(0)
    if arguments.show:
        rows = pd.read_csv(RESULTS)
    else:
        rows = measure(QUICK, None) if arguments.quick else measure(Sizes(), RESULTS)
    show("Spearman with the KL after healing", summary(rows))


if __name__ == "__main__":
    main()
