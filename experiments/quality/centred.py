"""The mean of the keys split off: the merge fitted to how keys differ from their mean, which follows by the same maps.

A constant that every key adds to a query's scores is nothing to its softmax. Without RoPE that is all that the mean of
the keys adds, and the product's merge leaves it out there. RoPE turns it with the distance: of slow pairs it is nearly
such a constant, of fast ones it is a bias that says how far back a key stands, and no exact split is left.

Merging the mean and the rest apart gives nothing else. For given maps of the queries the best shared key of a token
depends on that token's keys alone, and linearly, so mean and rest have the same best T; and the best map of a query,
given the shared key, does not depend on which query it is. What can be chosen is how much the mean counts in the fit.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from gqasearch.calibration import LayerStatistics
from gqasearch.merging import LayerMerge, Optimal
from gqasearch.merging.moments import like
from gqasearch.merging.optimal_layer import OptimalLayer
from gqasearch.merging.shared_pairs import SharedPairs
from gqasearch.merging.shared_rotated import side_by_side
from gqasearch.models import LayerWeights


@dataclass(frozen=True)
class Centred(Optimal):
    """``optimal``, in which the mean of rotated keys counts ``share`` of what it does: 1 is ``optimal`` itself."""

    name: ClassVar[str] = "centred"

    share: float = 0.0

    def for_layer(self, weights: LayerWeights, statistics: LayerStatistics | None = None) -> LayerMerge:  # type: ignore[override]
        if weights.k_norm is not None or statistics is None:
            raise ValueError("heads with norms are not centred here, and statistics are needed")
        return CentredLayer(weights, statistics, self.share)


class CentredLayer(OptimalLayer):
    """The Gram of rotated keys with a part of their mean's."""

    def __init__(self, weights: LayerWeights, statistics: LayerStatistics, share: float) -> None:
        self.share = share
        super().__init__(weights, statistics)

    def _bind_rotated(self, gram: Tensor, reads: Tensor) -> None:
        moment = like(self.statistics.moment(self.source.has_biases), self.source.k)
        mean = like(self.statistics.mean, self.source.k)
        if self.source.has_biases:
            mean = torch.cat([mean, mean.new_ones(1)])
        order = self.own.keys[side_by_side(len(self.own.keys))]
        keys = self._key_rows(self.source, moment)[:, order] @ mean  # (H, s)
        gram = gram - (1 - self.share) * torch.einsum("hs,jt->hjst", keys, keys)
        self.pairs = SharedPairs(gram, self._pair_energy(reads), self.pairs.own, self.pairs.shared)
        super()._bind_rotated(gram, reads)
