"""What kept hidden states save: a candidate that differs in one layer from one that was run, against a full run."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import pandas as pd

from experiments.quality.bench import Options, timed, workspace
from gqasearch.evaluation import ParentLogProbs, PrefixLosses, model_runner, tied_runner
from gqasearch.grouping import Grouping, LayerGrouping
from gqasearch.models import LayerWeights, tie_heads
from gqasearch.refining import LayersAlone, Outputs
from gqasearch.separate_grouping import AnyLayer
from gqasearch.steps import Workspace
from gqasearch_fitness._text import batch_size
from gqasearch_fitness.kl import KLToParent

REPEATS = 5
RATIO = 0.25


def measure(options: Options) -> pd.DataFrame:
    """One line per layer and repeat, the two ways in turn; seconds.

    ``reuse``: ``PrefixLosses`` of a candidate whose layers but one were run before. ``full``: the whole model with the
    same layers replaced, on the same batches, with the same KL. Both are given converted layers; ``convert`` is what
    the new one takes: merge, and the quick refit of W_o that ranks candidates. ``difference``: of the two KLs.
    """
    work = workspace(options, kv_ratio=RATIO)
    geometry = work.parent.geometry
    layer = LayerGrouping.neighbours(geometry.num_kv_heads, work.config.counts(geometry)[0])
    base = Grouping.uniform(layer, geometry.num_layers)
    ways = TwoWays.of(work)
    rng, rows = np.random.default_rng(0), []
    for index in range(geometry.num_layers):
        losses = ways.losses()
        losses([base], range(len(losses.batches)))
        for repeat in range(1 if options.quick else REPEATS):
            candidate = base.replace_layer(index, _other(layer, rng))
            rows.append({"layer": index, "repeat": repeat, **ways.compare(losses, candidate, index)})
    return pd.DataFrame(rows)


@dataclass(frozen=True)
class TwoWays:
    """Both ways to measure a candidate's KL on the search text. ``converted``: layers, once made."""

    work: Workspace
    alone: LayersAlone
    reference: ParentLogProbs
    converted: dict[tuple[int, AnyLayer], LayerWeights] = field(default_factory=dict)

    @classmethod
    def of(cls, work: Workspace) -> TwoWays:
        """As the fitness ``kl`` has it."""
        blocks, parent = work.blocks("search"), work.parent
        alone = LayersAlone(parent, work.blocks("calibration").first(KLToParent.refit_tokens), Outputs())
        runner = model_runner(parent.model)
        return cls(work, alone, ParentLogProbs.compute(runner, blocks, batch_blocks=batch_size(blocks)))

    def layer(self, index: int, layer: AnyLayer) -> LayerWeights:
        """The converted layer in the parent's shape."""
        if (index, layer) not in self.converted:
            merged = self.work.converter.merged(index, layer)
            refined = self.alone.refine(index, layer, merged)
            self.converted[index, layer] = tie_heads(refined, layer, self.work.parent.geometry.queries_per_kv)
        return self.converted[index, layer]

    def losses(self) -> PrefixLosses:
        """With nothing kept yet."""
        kept = self.reference
        return PrefixLosses(self.work.parent, self.layer, kept.blocks, kept.batch_blocks, kept.summed_kl)

    def compare(self, losses: PrefixLosses, candidate: Grouping, index: int) -> dict[str, float]:
        """Seconds of one candidate, whose layer ``index`` is new."""
        _, convert = timed(lambda: self.layer(index, candidate.layers[index]))
        tied = {i: self.layer(i, layer) for i, layer in enumerate(candidate)}
        found, reuse = timed(lambda: float(losses([candidate], range(len(losses.batches)))[0]))
        wanted, full = timed(lambda: self.reference.mean_kl(tied_runner(self.work.parent, tied)))
        return {"reuse": reuse, "full": full, "convert": convert, "difference": abs(found - wanted)}


def _other(layer: LayerGrouping, rng: np.random.Generator) -> LayerGrouping:
    """The same group sizes with other heads in them."""
    while (found := LayerGrouping.from_labels(rng.permutation(layer.labels).tolist())) == layer:
        pass
    return found


def summary(rows: pd.DataFrame) -> pd.DataFrame:
    """Shares of a full evaluation, of medians over repeats: by layer, their mean, and their mean as the staged search
    draws layers, with a chance in proportion to 1 / (layers from it to the last).
    """
    times = rows.groupby("layer")[["reuse", "full", "convert"]].median()
    shares = pd.DataFrame({"reuse": times["reuse"] / times["full"], "convert": times["convert"] / times["full"]})
    chances = 1.0 / np.arange(len(shares), 0, -1)
    drawn = shares.mul(chances / chances.sum(), axis=0).sum()
    shares.index = pd.Index([f"layer {layer}" for layer in shares.index])
    shares.loc["mean"], shares.loc["mean as drawn"] = shares.iloc[: len(chances)].mean(), drawn
    shares = shares.rename(columns={"reuse": "of a full evaluation", "convert": "conversion of the layer beside it"})
    return shares.rename_axis("the layer that differs").reset_index()
