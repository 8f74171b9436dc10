"""Optimal: the closed-form merge. No linear merge of its form has a smaller error.

*Values.* Any invertible map on a V head can be undone in W_o, so a group may share one V with a (dv, dv)
map P_h per head: v_h ~ P_h v. With A_h = C^1/2 W_v,h^T S_h, where S_h^T S_h sums W_o^T W_o over the head's
queries, the best shared V is spanned by the top dv left singular vectors of [A_1 ... A_n] (Eckart and
Young, 1936), and P_h is the regression of v_h on it. W'_o = W_o P_h.

*Keys.* Only one complex factor per RoPE frequency pair and head commutes with the rotation. Per pair
the best shared key is the leading eigenvector a of the group's Hermitian Gram of sqrt(e_h) k_h, e_h the
energy of the queries that read it: z = a^H k~, k_h ~ c_h z with c_h = a_h / sqrt(e_h), q' = conj(c_h) q.
Dimensions that are not rotated (all of them without RoPE, some with partial rotary) merge like values:
E[q q^T] stands for W_o^T W_o, and the (s, s) map P_h goes into the queries, q' = P_h^T q.

The error of a group is the sum of the discarded eigenvalues: a set function of its heads.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from gqasearch.calibration.statistics import LayerStatistics
from gqasearch.merging._base import Merge, Need, required
from gqasearch.merging.optimal_layer import OptimalLayer
from gqasearch.merging.optimal_normed import OptimalNormedLayer
from gqasearch.models import LayerWeights


@dataclass(frozen=True)
class Optimal(Merge):
    """Best low-rank fit of values and keys, moved into W_o and W_q."""

    name: ClassVar[str] = "optimal"
    reference: ClassVar[str] = "https://doi.org/10.1007/BF02288367"
    summary: ClassVar[str] = "closed-form best shared K and V, the rest moved into W_q and W_o"
    default_refinement: ClassVar[str] = "descent"

    @property
    def needs(self) -> Need:
        return "statistics"

    def for_layer(self, weights: LayerWeights, statistics: LayerStatistics | None = None) -> OptimalLayer:
        kind = OptimalLayer if weights.k_norm is None else OptimalNormedLayer
        return kind(weights, required(statistics, self.name))
