"""Groupings that no search is needed for."""

from __future__ import annotations

from gqasearch.api.parent_with_text import ParentWithText
from gqasearch.api.python_words import python_words
from gqasearch.grouping import Grouping, LayerGrouping


@python_words()
def neighbours(parent: ParentWithText, kv_ratio: float = 0.5) -> Grouping:
    """Consecutive heads share, as in the GQA paper (https://arxiv.org/abs/2305.13245), as many groups in every layer.

    ``kv_ratio``: share of the KV heads to keep, of which the nearest whole number is taken. Raises ``UserError`` where
    that is less than one head or more than all.
    """
    work = parent.workspace({"kv_ratio": kv_ratio})
    geometry = work.source.geometry
    counts = work.config.counts(geometry)
    return Grouping(tuple(LayerGrouping.neighbours(geometry.num_kv_heads, count) for count in counts))
