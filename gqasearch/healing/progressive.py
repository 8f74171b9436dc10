"""Progressive merge: every head moves from its own K and V to the shared one while the model is trained."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch

from gqasearch.grouping import Grouping, LayerGrouping
from gqasearch.healing.frames import towards
from gqasearch.models import LayerWeights, Parent, tie_heads
from gqasearch.refining.grouped_parent import TRAINED, GroupedParent, TrainedLayer
from gqasearch.refining.layer_site import compute_dtype


class ProgressiveParent(GroupedParent):
    """Runs (1 - share) own + share * grouped, for q, k, v, o and biases of every layer in ``layers``.

    ``own`` starts as the parent's weights, each head turned towards the shared one (``frames``), and is trained
    too: at ``share`` 0 the model is the parent, at 1 the grouped model and nothing else. With the L0 masks of
    arXiv 2412.20677 it is learnt when a head leaves its own weights; here ``set_share`` says how far all of them are.
    ``layer`` gives the grouped weights, wherever the share is.
    """

    def __init__(
        self, parent: Parent, grouping: Grouping, layers: Mapping[int, LayerWeights], *, whole: bool = False
    ) -> None:
        super().__init__(parent, grouping, layers, whole=whole)
        geometry = parent.geometry
        self.own = torch.nn.ModuleDict()
        alone = LayerGrouping.singletons(geometry.num_kv_heads)
        for index, merged in sorted(layers.items()):
            shared = tie_heads(merged, grouping.layers[index], geometry.queries_per_kv)
            own = towards(parent.layer(index), shared)
            self.own[str(index)] = TrainedLayer(own, alone, compute_dtype(parent))
        # In the state, so that a run that goes on knows where it was.
        self.share: torch.Tensor
        self.register_buffer("share", torch.zeros(()))

    def set_share(self, share: float) -> None:
        """How far the heads are: 0 for their own weights, 1 for the shared ones."""
        if not 0 <= share <= 1:
            raise ValueError(f"share must be from 0 to 1, got {share}")
        self.share.fill_(share)

    def source_shaped(self, index: int) -> LayerWeights:
        shared, name = super().source_shaped(index), str(index)
        if name not in self.own:
            return shared
        own, share = self.own[name], float(self.share)
        blended: dict[str, Any] = {
            role: (1 - share) * getattr(own, role) + share * tensor
            for role in TRAINED
            if (tensor := getattr(shared, role)) is not None
        }
        return replace(shared, **blended)
