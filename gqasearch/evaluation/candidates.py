"""From a grouping to something that runs: merge every layer, tie the heads, replace them in the parent."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

from gqasearch.calibration import Statistics, TokenBlocks, no_progress
from gqasearch.evaluation.runners import Runner, tied_runner
from gqasearch.grouping import Grouping
from gqasearch.merging import LayerMerge, Merge
from gqasearch.models import LayerWeights, Parent, tie_heads
from gqasearch.refining import Refinement


class Converter:
    """Merges groupings of one parent. Merged groups are kept, so similar candidates cost little.

    ``measure``: errors of groups will be asked for, so bind statistics even where the merge needs none.
    """

    def __init__(
        self, parent: Parent, merge: Merge, load_statistics: Callable[[], Statistics], *, measure: bool = False
    ) -> None:
        self.parent = parent
        self.merge = merge
        self._load_statistics = load_statistics
        self._bind_statistics = measure or merge.needs == "statistics"
        self._layers: dict[int, LayerMerge] = {}

    def layer_merge(self, layer: int) -> LayerMerge:
        """The merge bound to one layer, made when it is first needed."""
        if layer not in self._layers:
            statistics = self._load_statistics().layer(layer) if self._bind_statistics else None
            self._layers[layer] = self.merge.for_layer(self.parent.layer(layer), statistics)
        return self._layers[layer]

    def merged_layer(self, grouping: Grouping, layer: int) -> LayerWeights:
        """One layer with one K and V per group."""
        return self.layer_merge(layer).merge(grouping.layers[layer])

    def converted_layer(
        self, grouping: Grouping, layer: int, refined: Mapping[int, LayerWeights] | None = None
    ) -> LayerWeights:
        """One layer as ``refined`` (what ``refine`` gave) has it, or else as the merge makes it."""
        return refined[layer] if refined and layer in refined else self.merged_layer(grouping, layer)

    def tied_layers(
        self, grouping: Grouping, refined: Mapping[int, LayerWeights] | None = None
    ) -> dict[int, LayerWeights]:
        """Every layer that the grouping changes, in the parent's shape; ``refined``: what ``refine`` gave."""
        m = self.parent.geometry.queries_per_kv
        return {
            index: tie_heads(self.converted_layer(grouping, index, refined), layer.labels, m)
            for index, layer in enumerate(grouping)
            if layer.num_groups < layer.num_heads
        }

    def runner(self, grouping: Grouping, refined: Mapping[int, LayerWeights] | None = None) -> Runner:
        """Logits of the parent converted by this grouping, without writing a checkpoint."""
        return tied_runner(self.parent, self.tied_layers(grouping, refined))

    def refine(
        self,
        grouping: Grouping,
        blocks: TokenBlocks,
        refinement: Refinement,
        *,
        batch_blocks: int = 8,
        folder: Path | None = None,
        progress: Callable[[int, int], None] = no_progress,
    ) -> Mapping[int, LayerWeights]:
        """Every layer that ``refinement``, fitted on ``blocks``, changes after the merge: k, v (G, ...).

        ``folder``: see ``Refinement.refine``.
        """
        return refinement.refine(
            self.parent,
            grouping,
            lambda index: self.merged_layer(grouping, index),
            blocks,
            batch_blocks=batch_blocks,
            folder=folder,
            progress=progress,
        )
