"""From a grouping to something that runs: merge every layer, tie the heads, replace them in the parent."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TypeAlias

from gqasearch.calibration import Statistics, TokenBlocks, no_progress
from gqasearch.evaluation.recent import Recent
from gqasearch.evaluation.runners import ParentLayers
from gqasearch.merging import LayerMerge, Merge, MergedGroup, held_bytes, with_groups
from gqasearch.models import LayerWeights, Parent, tie_heads
from gqasearch.refining import Refinement
from gqasearch.rounding import KVFormat
from gqasearch.separate_grouping import AnyGrouping, AnyLayer, changed_layers

Group: TypeAlias = tuple[int, ...]


# Memory of bound layers, with the weights and statistics that they hold: all of a small model, one of a large one.
LAYER_BYTES = 2**27
# Memory of merged groups.
GROUP_BYTES = 2**27


def _changed(grouping: AnyGrouping, refined: Mapping[int, LayerWeights] | None) -> list[int]:
    """Layers in which heads share, and those that were changed after the merge."""
    return sorted({*changed_layers(grouping), *(refined or {})})


class Converter:
    """Merges groupings of one parent.

    Layers are bound when they are first needed, and merged groups kept, so similar candidates cost little; what was
    not used longest is dropped where it takes too much memory.

    ``measure``: errors of groups will be asked for, so bind statistics even where the merge needs none.
    """

    def __init__(
        self, parent: Parent, merge: Merge, load_statistics: Callable[[], Statistics], *, measure: bool = False
    ) -> None:
        self.parent = parent
        self.merge = merge
        self._load_statistics = load_statistics
        self._bind_statistics = measure or merge.needs == "statistics"
        self._layers: OrderedDict[int, LayerMerge] = OrderedDict()
        # In the layer's own dtype, by layer and heads.
        self._groups: Recent[tuple[int, Group], MergedGroup] = Recent(GROUP_BYTES, lambda group: group.nbytes)

    def layer_merge(self, layer: int) -> LayerMerge:
        """The merge bound to one layer; bound again where it was dropped."""
        if layer not in self._layers:
            self._make_room()
            statistics = self._load_statistics().layer(layer) if self._bind_statistics else None
            self._layers[layer] = self.merge.for_layer(self.parent.layer(layer), statistics)
        self._layers.move_to_end(layer)
        return self._layers[layer]

    def _make_room(self) -> None:
        """Drop bound layers until one more, as large as the last, fits."""
        while self._layers:
            last = next(reversed(self._layers.values()))
            if held_bytes(*self._layers.values()) + held_bytes(last) <= LAYER_BYTES:
                return
            self._layers.popitem(last=False)

    def merged(self, layer: int, grouping: AnyLayer) -> LayerWeights:
        """One layer with one K and V per group of this grouping of its heads."""
        bound = self._layers.get(layer)
        source = self.parent.layer(layer) if bound is None else bound.source
        return with_groups(source, grouping, lambda heads: self._merged_group(layer, heads))

    def _merged_group(self, layer: int, heads: Group) -> MergedGroup:
        known = self._groups.get((layer, heads))
        if known is None:
            bound = self.layer_merge(layer)
            known = bound.merge_group(heads).to(bound.source.q.dtype)
            self._groups.put((layer, heads), known)
        return known

    def merged_layer(self, grouping: AnyGrouping, layer: int) -> LayerWeights:
        """``merged`` of this layer's part of a grouping of all."""
        return self.merged(layer, grouping.layers[layer])

    def _merged_once(self, grouping: AnyGrouping, layer: int) -> LayerWeights:
        """``merged_layer`` for who needs the memory next."""
        found = self.merged_layer(grouping, layer)
        self.rest()
        return found

    def rest(self) -> None:
        """Let go of bound layers that take more than ``LAYER_BYTES``; they are bound again when they are asked for."""
        while self._layers and held_bytes(*self._layers.values()) > LAYER_BYTES:
            self._layers.popitem(last=False)

    def converted_layer(
        self, grouping: AnyGrouping, layer: int, refined: Mapping[int, LayerWeights] | None = None
    ) -> LayerWeights:
        """One layer as ``refined`` (what ``refine`` gave) has it, or else as the merge makes it."""
        return refined[layer] if refined and layer in refined else self.merged_layer(grouping, layer)

    def tied_layer(
        self, grouping: AnyGrouping, layer: int, refined: Mapping[int, LayerWeights] | None = None
    ) -> LayerWeights:
        """``converted_layer`` in the parent's shape."""
        converted = self.converted_layer(grouping, layer, refined)
        return tie_heads(converted, grouping.layers[layer], self.parent.geometry.queries_per_kv)

    def tied_layers(
        self, grouping: AnyGrouping, refined: Mapping[int, LayerWeights] | None = None
    ) -> dict[int, LayerWeights]:
        """Every layer that the grouping changes, in the parent's shape; ``refined``: what ``refine`` gave."""
        return {index: self.tied_layer(grouping, index, refined) for index in _changed(grouping, refined)}

    def runner(self, grouping: AnyGrouping, refined: Mapping[int, LayerWeights] | None = None) -> ParentLayers:
        """The parent converted by this grouping, without writing a checkpoint; ``refined``: what ``refine`` gave.

        A layer is made when the text comes to it.
        """
        changed = _changed(grouping, refined)
        return ParentLayers(self.parent, changed, lambda index: self.tied_layer(grouping, index, refined))

    def refine(
        self,
        grouping: AnyGrouping,
        blocks: TokenBlocks,
        refinement: Refinement,
        *,
        batch_blocks: int = 8,
        folder: Path | None = None,
        kv: KVFormat | None = None,
        progress: Callable[[int, int], None] = no_progress,
    ) -> Mapping[int, LayerWeights]:
        """Every layer that ``refinement``, fitted on ``blocks``, changes after the merge: k, v (G, ...).

        ``folder``, ``kv``: see ``Refinement.refine``.
        """
        return refinement.refine(
            self.parent,
            grouping,
            lambda index: self._merged_once(grouping, index),
            blocks,
            batch_blocks=batch_blocks,
            folder=folder,
            kv=kv,
            progress=progress,
        )
