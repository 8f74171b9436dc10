"""From a grouping to something that runs: merge every layer, tie the heads, replace them in the parent."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from torch import Tensor

from gqasearch.calibration import Statistics, TokenBlocks, no_progress
from gqasearch.evaluation.refit import refit_outputs
from gqasearch.evaluation.runners import Runner, tied_runner
from gqasearch.grouping import Grouping
from gqasearch.merging import LayerMerge, Merge
from gqasearch.models import LayerWeights, Parent, tie_heads


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

    def tied_layers(self, grouping: Grouping, outputs: dict[int, Tensor] | None = None) -> dict[int, LayerWeights]:
        """Every layer that the grouping changes, in the parent's shape; ``outputs``: refitted W_o by layer."""
        m = self.parent.geometry.queries_per_kv
        return {
            index: tie_heads(with_outputs(self.merged_layer(grouping, index), index, outputs), layer.labels, m)
            for index, layer in enumerate(grouping)
            if layer.num_groups < layer.num_heads
        }

    def runner(self, grouping: Grouping, outputs: dict[int, Tensor] | None = None) -> Runner:
        """Logits of the parent converted by this grouping, without writing a checkpoint."""
        return tied_runner(self.parent, self.tied_layers(grouping, outputs))

    def refit(
        self,
        grouping: Grouping,
        blocks: TokenBlocks,
        *,
        batch_blocks: int = 8,
        progress: Callable[[int, int], None] = no_progress,
    ) -> dict[int, Tensor]:
        """W_o of every changed layer, refitted on ``blocks`` where the merge asks for it; {} where not."""
        ridge = self.merge.output_ridge
        if ridge is None:
            return {}
        return refit_outputs(
            self.parent,
            grouping,
            lambda index: self.merged_layer(grouping, index),
            blocks,
            ridge=ridge,
            batch_blocks=batch_blocks,
            progress=progress,
        )


def with_outputs(layer: LayerWeights, index: int, outputs: dict[int, Tensor] | None) -> LayerWeights:
    """The layer with its refitted W_o, if it has one."""
    if not outputs or index not in outputs:
        return layer
    return replace(layer, o=outputs[index].to(layer.o))
