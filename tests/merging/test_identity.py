"""What a merge must leave alone: single heads bit for bit, and heads that are the same up to a gauge."""

from __future__ import annotations

from dataclasses import fields, replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from gqasearch.grouping import LayerGrouping
from gqasearch.merging import MERGES, make_merge
from gqasearch.merging.aligned_layer import AlignedLayer
from gqasearch.merging.score_pairs import turned_queries
from gqasearch.models import LayerWeights
from tests.matrix import SOURCES, sampled
from tests.merging.layers import MATRIX, bound, copies, even_norms, logits_with, source_layer, tied, turned, wide
from tests.samples import synthetic_statistics
from tests.tiny_models import tiny_parent

ALIGNING = ("aligned", "aligned-renorm", "optimal")


@pytest.mark.parametrize(("family", "kv_heads"), SOURCES)
@pytest.mark.parametrize("name", sampled(sorted(MERGES), ["mean", "optimal", "aligned-renorm"]))
def test_singletons_are_bit_equal(name: str, family: str, kv_heads: int) -> None:
    merge = bound(name, family, kv_heads=kv_heads)
    merged = merge.merge(LayerGrouping.singletons(kv_heads))
    for field in fields(LayerWeights):
        before, after = getattr(merge.source, field.name), getattr(merged, field.name)
        assert torch.equal(before, after) if isinstance(before, Tensor) else before == after


@pytest.mark.parametrize(("name", "family"), MATRIX)
def test_heads_outside_a_group_are_bit_equal(name: str, family: str) -> None:
    merge = bound(name, family)
    merged = merge.merge(LayerGrouping.from_labels((0, 1, 0, 2, 3, 4)))
    for field in ("k", "v", "k_bias", "v_bias"):
        before, after = getattr(merge.source, field), getattr(merged, field)
        assert before is None or torch.equal(before[[1, 3, 4, 5]], after[[1, 2, 3, 4]])
    for field in ("q", "o", "q_bias"):
        before, after = getattr(merge.source, field), getattr(merged, field)
        assert before is None or torch.equal(before[[1, 3, 4, 5]], after[[1, 3, 4, 5]])


@pytest.mark.parametrize("family", ["gpt2", "opt", "gpt_neox"])
def test_shared_keys_that_nothing_turns_have_no_mean(family: str) -> None:
    """It is seen by no softmax, and was far larger than what differs between tokens, once that is whitened."""
    merge = bound("optimal", family)
    merged = merge.merge(LayerGrouping.from_labels((0, 1, 0, 2, 1, 0)))
    mean = synthetic_statistics(merge.source).mean
    assert merged.k_bias is not None
    common = (merged.k[:2].double() @ mean + merged.k_bias[:2])[:, merged.rotary_dim :]
    sizes = (merged.k[:2].double() @ mean)[:, merged.rotary_dim :]
    assert float(common.abs().max()) < 1e-5 * float(sizes.abs().max())


@pytest.mark.parametrize(("family", "kv_heads"), SOURCES)
def test_merging_copies_leaves_logits_unchanged(family: str, kv_heads: int) -> None:
    parent = tiny_parent(family, kv_heads=kv_heads)
    same = copies(parent.layer(0))
    before, labels = logits_with(parent, same), (0,) * kv_heads
    for name in MERGES:
        merge = make_merge(name).for_layer(same, synthetic_statistics(same))
        merged = merge.merge(LayerGrouping.from_labels(labels))
        assert torch.allclose(logits_with(parent, tied(merged, labels)), before, atol=3e-5), name
        assert merge.group_error(tuple(range(kv_heads))) < 1e-6, name


@pytest.mark.parametrize(("family", "kv_heads"), SOURCES)
@pytest.mark.parametrize("seed", sampled(range(2), [0]))
def test_merging_turned_copies_leaves_logits_unchanged(family: str, kv_heads: int, seed: int) -> None:
    """Heads that compute the same, each in a basis of its own: the mean is lost, whatever aligns is exact."""
    parent = tiny_parent(family, kv_heads=kv_heads, seed=seed)
    even_norms(parent)
    same = copies(parent.layer(0))
    other = turned(same, seed)
    before, labels = logits_with(parent, same), (0,) * kv_heads
    assert torch.allclose(logits_with(parent, other), before, atol=3e-5)
    for name in ("mean", *ALIGNING):
        merged = make_merge(name).for_layer(other, synthetic_statistics(other)).merge(LayerGrouping.from_labels(labels))
        changed = float((logits_with(parent, tied(merged, labels)) - before).abs().max())
        assert changed > 0.05 if name == "mean" else changed < 2e-4, (name, changed)


@pytest.mark.parametrize(("family", "kv_heads"), SOURCES)
def test_alignment_alone_leaves_logits_unchanged(family: str, kv_heads: int) -> None:
    """Every head keeps its K and V, as it would be turned towards all others, and what reads them is turned back."""
    parent = tiny_parent(family, kv_heads=kv_heads)
    even_norms(parent)
    layer = parent.layer(0)
    merge, heads = make_merge("aligned").for_layer(layer, synthetic_statistics(layer)), tuple(range(kv_heads))
    assert isinstance(merge, AlignedLayer)
    turns, factors, maps = merge.alignment(heads)
    k, k_bias = merge.turned_keys(wide(merge), factors, maps)
    v, v_bias = merge.turned_values(wide(merge), turns)
    q, q_bias = turned_queries(wide(merge), factors, maps)
    o = wide(merge).o @ turns.repeat_interleave(layer.queries_per_kv, dim=0)
    alone = replace(layer, q=q, k=k, v=v, o=o, q_bias=q_bias, k_bias=k_bias, v_bias=v_bias)
    assert not torch.allclose(alone.v, wide(merge).v, atol=0.1)
    assert torch.allclose(logits_with(parent, alone), logits_with(parent, layer), atol=3e-5)


@pytest.mark.parametrize(("family", "kv_heads"), SOURCES)
def test_turning_heads_changes_no_error(family: str, kv_heads: int) -> None:
    """Gauge freedom: what aligns sees the same problem however the source's heads are turned."""
    parent = tiny_parent(family, kv_heads=kv_heads)
    even_norms(parent)
    layer = parent.layer(0).to(torch.float64)
    other, statistics = turned(layer), synthetic_statistics(layer)
    merges = [make_merge("optimal").for_layer(w, statistics) for w in (layer, other)]
    for heads in [(0, 1), (0, 2), (0, 1, 2)]:
        values = [merge.group_error(heads) for merge in merges]
        assert values[1] == pytest.approx(values[0], rel=2e-2 if layer.k_norm is not None else 1e-9)


@pytest.mark.parametrize(("name", "family"), MATRIX)
@settings(max_examples=3)
@given(order=st.permutations(range(6)))
def test_the_order_of_heads_does_not_matter(name: str, family: str, order: list[int]) -> None:
    layer = source_layer(family)
    statistics = synthetic_statistics(layer)
    moved = replace(
        layer,
        **{
            field: getattr(layer, field)[order]
            for field in ("q", "k", "v", "o", "q_bias", "k_bias", "v_bias")
            if getattr(layer, field) is not None
        },
    )
    gains = {"score_gain": statistics.score_gain[order], "distance": statistics.distance[order]}
    first = make_merge(name).for_layer(layer, statistics)
    second = make_merge(name).for_layer(moved, replace(statistics, **gains))
    for heads in [(0, 4), (1, 2, 5)]:
        there = tuple(sorted(order.index(head) for head in heads))
        assert second.group_error(there) == pytest.approx(first.group_error(heads), rel=1e-6)
