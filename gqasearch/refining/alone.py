"""Layers refined one by one, each as if it were the only one converted, on the parent's own stream.

The refinement itself goes through the model from the input upwards, and every layer depends on those below. By
itself a layer's result depends on its grouping alone, so a search can keep it and put layers together at will.
"""

from __future__ import annotations

import copy
from dataclasses import replace

import torch

from gqasearch.calibration import TokenBlocks
from gqasearch.grouping import LayerGrouping
from gqasearch.models import LayerWeights, Parent
from gqasearch.refining._base import LayerwiseRefinement
from gqasearch.refining.layer_site import LayerSite
from gqasearch.refining.streams import Streams
from gqasearch.rounding import KVFormat
from gqasearch.separate_grouping import AnyLayer

# Bytes of what all layers' attention reads and should add that are kept in memory.
ROOM = 2**28


class LayersAlone:
    """Refines any layer to what the parent's attention gives on ``blocks``.

    ``kv``: how the cache of every layer is rounded; None for not. Keeps 2 * layers * tokens * D values, in memory up to
    ``ROOM`` bytes and on disk from there on.
    """

    def __init__(
        self,
        parent: Parent,
        blocks: TokenBlocks,
        refinement: LayerwiseRefinement,
        *,
        batch_blocks: int = 8,
        kv: KVFormat | None = None,
    ) -> None:
        self.refinement = refinement
        self._sites: list[LayerSite] = []
        whole = LayerGrouping.singletons(parent.geometry.num_kv_heads)
        with torch.no_grad():
            # ProcessCache, as the files of its sites go with it.
            self._streams = streams = Streams(parent, blocks, refinement.blocks_per_pass(batch_blocks))
            for index in range(parent.geometry.num_layers):
                with parent.layer_loaded(index):
                    streams.advance_parent(index)
                    site = streams.site(index, whole, ROOM // parent.geometry.num_layers)
                    self._sites.append(replace(site, kv=kv))
                    streams.advance_converted(index, None)

    def rounded(self, kv: KVFormat | None) -> LayersAlone:
        """The same with caches in another format."""
        other = copy.copy(self)
        other._sites = [replace(site, kv=kv) for site in self._sites]  # noqa: SLF001 - of the same class
        return other

    def site(self, index: int, layer: AnyLayer) -> LayerSite:
        """Where layer ``index`` is refined with this grouping."""
        return replace(self._sites[index], layer=layer)

    def refine(self, index: int, layer: AnyLayer, merged: LayerWeights) -> LayerWeights:
        """``merged``, layer ``index`` after its merge (k, v (G, ...)), refined; in ``LayerSite.dtype``."""
        site = self.site(index, layer)
        with torch.no_grad():
            return self.refinement.refine_layer(site, merged.to(site.dtype), _nothing)


def _nothing() -> None:
    """A step that nobody counts."""
