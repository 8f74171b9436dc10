"""Merges: the rules that turn the K and V of a group into one KV head."""

from typing import Any

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
from gqasearch.registry import Registry

__all__ = [
    "MERGES",
    "MERGE_REGISTRY",
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


MERGE_REGISTRY: Registry[Merge] = Registry("merge", "gqasearch.merges", Merge, ("name", "reference", "summary"), MERGES)


def make_merge(name: str, parameters: dict[str, Any] | None = None) -> Merge:
    """The merge of this name; an unknown name or parameter is a ``UserError`` with the nearest valid one."""
    return MERGE_REGISTRY.make(name, parameters)
