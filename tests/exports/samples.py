"""Groupings and models of any shape, for the tests of exports and imports."""

from __future__ import annotations

from hypothesis import strategies as st

from gqasearch.grouping import Grouping
from gqasearch.grouping_document import GroupingDocument, LayerRecord, ModelRecord


def model_of(layers: int, heads: int, queries_per_kv: int = 1) -> ModelRecord:
    return ModelRecord("m", "LlamaForCausalLM", layers, heads * queries_per_kv, heads, 8)


def document_of(labels: list[list[int]], queries_per_kv: int = 1) -> GroupingDocument:
    grouping = Grouping.from_labels(labels)
    return GroupingDocument(
        model_of(len(grouping), grouping.num_heads, queries_per_kv), tuple(map(LayerRecord, grouping))
    )


rows = st.integers(1, 6).flatmap(
    lambda heads: st.lists(st.lists(st.integers(0, 5), min_size=heads, max_size=heads), min_size=1, max_size=4)
)
