"""Merges: the rules that turn the K and V of a group into one KV head."""

from typing import Any

from gqasearch.errors import unknown_name
from gqasearch.merging._base import LayerMerge, Merge, Need
from gqasearch.merging.aligned import Aligned
from gqasearch.merging.aligned_renorm import AlignedRenorm
from gqasearch.merging.mean import Mean
from gqasearch.merging.mean_renorm import MeanRenorm
from gqasearch.merging.medoid import Medoid
from gqasearch.merging.merged_group import MergedGroup, with_groups
from gqasearch.merging.optimal import Optimal
from gqasearch.merging.selected import held_bytes, selected
from gqasearch.merging.weighted_mean import WeightedMean
from gqasearch.parameters import construct

__all__ = [
    "MERGES",
    "Aligned",
    "AlignedRenorm",
    "LayerMerge",
    "Mean",
    "MeanRenorm",
    "Medoid",
    "Merge",
    "MergedGroup",
    "Need",
    "Optimal",
    "WeightedMean",
    "held_bytes",
    "make_merge",
    "selected",
    "with_groups",
]

MERGES: dict[str, type[Merge]] = {
    kind.name: kind for kind in (Mean, MeanRenorm, Medoid, WeightedMean, Aligned, AlignedRenorm, Optimal)
}


def make_merge(name: str, parameters: dict[str, Any] | None = None) -> Merge:
    """The merge of this name; an unknown name or parameter is a ``UserError`` with the nearest valid one."""
    if name not in MERGES:
        raise unknown_name("merge", name, MERGES)
    return construct(MERGES[name], f"merge {name}", parameters or {})
