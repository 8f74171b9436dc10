"""The groupings of a layer ranked once more, by what a short descent makes of each."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace

import torch

from gqasearch.calibration import TokenBlocks
from gqasearch.evaluation import Converter, LayerStack, tied_runner
from gqasearch.grouping import Grouping, LayerGrouping
from gqasearch.merging import LayerMerge
from gqasearch.models import LayerWeights, tie_heads
from gqasearch.refining import Descent, LayerSite, Streams
from gqasearch.refining.descent import layer_loss

FITTED_ON, HELD_BACK = 4, 8  # one batch of so many


@dataclass(frozen=True)
class Reranking:
    """Of the ``best`` partitions of a layer by merge error, among the grouping's own and those that one move of a head
    or one exchange of two makes of it, the one that ``steps`` steps of descent leave closest to the parent's stream.

    The short descents see every fourth batch of the calibration text, and are compared on every eighth, which is not
    among these. The chosen partition then gets the descent ``last``.
    """

    best: int = 6
    steps: int = 20
    last: Descent = field(default_factory=Descent)

    def __call__(self, converter: Converter, grouping: Grouping, blocks: TokenBlocks, batch_blocks: int) -> LayerStack:
        parent, tied, changed = converter.parent, dict[int, LayerWeights](), 0
        with torch.no_grad():
            streams = Streams(parent, blocks, self.last.batch_blocks)
            for index, layer in enumerate(grouping):
                streams.advance_parent(index)
                if layer.shares:
                    site = streams.site(index, layer)
                    chosen = self._chosen(converter, site)
                    changed += chosen != layer
                    merged = converter.merged(index, chosen).to(site.dtype)
                    found = self.last.refine_layer(replace(site, layer=chosen), merged, lambda: None)
                    site.forget()
                    tied[index] = tie_heads(found, chosen, parent.geometry.queries_per_kv)
                streams.advance_converted(index, tied.get(index))
        print(f"reranked: {changed} of {len(grouping)} layers have another partition", flush=True)
        return tied_runner(parent, tied)

    def _chosen(self, converter: Converter, site: LayerSite) -> LayerGrouping:
        if not isinstance(site.layer, LayerGrouping):
            raise TypeError("one partition of a layer's heads is ranked, not two")
        known = best_by_error(converter.layer_merge(site.index), site.layer, self.best)
        return min(known, key=lambda layer: self._loss(converter, replace(site, layer=layer), layer))

    def _loss(self, converter: Converter, site: LayerSite, layer: LayerGrouping) -> float:
        """On the batches held back, after a short descent."""
        calls = list(site.calls)
        held = calls[1::HELD_BACK]
        part = replace(site, calls=calls[::FITTED_ON])
        short = replace(self.last, steps=self.steps)
        found = short.refine_layer(part, converter.merged(site.index, layer).to(site.dtype), lambda: None)
        return sum(float(layer_loss(site, found, call)) for call in held)


def best_by_error(merge: LayerMerge, layer: LayerGrouping, count: int) -> list[LayerGrouping]:
    """``layer`` and its neighbours with the least merge errors, ``count`` in all, best first."""
    known = {layer, *neighbours(layer)}

    def error(one: LayerGrouping) -> tuple[float, tuple[int, ...]]:
        return sum(merge.group_errors(one.groups)), one.labels

    return sorted(known, key=error)[:count]


def neighbours(layer: LayerGrouping) -> Iterator[LayerGrouping]:
    """Partitions into as many groups that a move of one head, or an exchange of two, makes of ``layer``."""
    labels = list(layer.labels)
    for head, own in enumerate(labels):
        if labels.count(own) > 1:
            for group in set(labels) - {own}:
                yield LayerGrouping.from_labels([*labels[:head], group, *labels[head + 1 :]])
        for other in range(head):
            if labels[other] != own:
                changed = labels.copy()
                changed[head], changed[other] = changed[other], own
                yield LayerGrouping.from_labels(changed)
