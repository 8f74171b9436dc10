"""Optimal: the best shared K and V of a group, from moments alone.

*Values.* Any invertible map on a V head can be undone in W_o, so a group may share one V with a (dv, dv)
map P_h per head: v_h ~ P_h v. With A_h = C'^1/2 W_v,h^T S_h, where C' is the second moment of inputs as attention
averages them and S_h^T S_h sums W_o^T W_o over the head's queries, the best shared V is spanned by the top dv left
singular vectors of [A_1 ... A_n] (Eckart and Young, 1936), and P_h is the regression of v_h on it. W'_o = W_o P_h.

*Keys.* RoPE stands between a query and a key, and turns fast pairs and slow pairs differently: over the few
tokens that attention mostly looks back, slow pairs hardly turn, so nearly any matrix can be moved through
them from keys to queries, and only one complex factor through the fast ones. Averaged over relative positions as
attention weighs them (``positions``), the best shared key z and the best matrix of every query head, q' = M q, are
linear solves given each other (``shared_rotated``). Dimensions that are not rotated (all of them without RoPE,
some with partial rotary) merge like values: E[q q^T] stands for W_o^T W_o, and P_h goes into the queries,
q' = P_h^T q. Under norms of single heads (Qwen3) only a complex factor of modulus 1 passes (``optimal_normed``).

The error of a group is what these fits leave over: a set function of its heads. For rotated keys a search is told what
``SEARCH_ROUNDS`` rounds of the alternation leave, and the merge goes on to ``ROUNDS``, which never leaves more.
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
    summary: ClassVar[str] = "least-squares best shared K and V, the rest moved into W_q and W_o"
    default_refinement: ClassVar[str] = "descent"

    @property
    def needs(self) -> Need:
        return "statistics"

    def for_layer(self, weights: LayerWeights, statistics: LayerStatistics | None = None) -> OptimalLayer:
        kind = OptimalLayer if weights.norm_of_keys is None else OptimalNormedLayer
        return kind(weights, required(statistics, self.name))
