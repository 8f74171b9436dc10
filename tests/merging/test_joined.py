"""Merging into heads of n times the size: n heads lose nothing, more lose less than groups at the same memory."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from itertools import combinations

import pytest
import torch

from gqasearch.calibration.statistics import LayerStatistics
from gqasearch.grouping import LayerGrouping
from gqasearch.merging import LayerMerge, make_merge
from gqasearch.models.joined import joined_layer, joined_places, own_dimensions
from tests.merging.layers import source_layer
from tests.samples import synthetic_statistics

HEADS = 6


@cache
def bound(family: str, n: int, kv_heads: int | None = None) -> LayerMerge:
    layer = source_layer(family, 0, kv_heads)
    return make_merge("optimal").for_layer(joined_layer(layer, n), wide_statistics(synthetic_statistics(layer, 0), n))


def wide_statistics(statistics: LayerStatistics, n: int) -> LayerStatistics:
    """What the same text shows of the layer with wide heads: every frequency n times, side by side."""
    tables = {}
    for name in ("cosines", "sines"):
        table = getattr(statistics, name)
        half = table[:, : table.shape[1] // 2].repeat_interleave(n, 1)
        tables[name] = torch.cat([half, half], 1) if table.shape[1] % 2 == 0 else half
    return replace(statistics, **tables)


@pytest.mark.parametrize(("family", "kv_heads"), [("llama", 6), ("llama", 3), ("qwen2", 6), ("gpt2", 6), ("opt", 6)])
@pytest.mark.parametrize("n", [2, 3])
def test_n_heads_lose_nothing(family: str, kv_heads: int, n: int) -> None:
    merge, alone = bound(family, n, kv_heads), bound(family, 1, kv_heads)
    pairs = list(combinations(range(kv_heads), n))
    typical = max(alone.group_errors(pairs))
    assert max(merge.group_errors(pairs)) < 1e-8 * typical
    measured = [merge.measured_error(pair) for pair in pairs]
    assert max(measured) < 1e-8 * typical


@pytest.mark.parametrize("family", ["llama", "qwen2"])
@pytest.mark.parametrize("n", [2, 3])
def test_errors_are_those_of_the_merged_weights(family: str, n: int) -> None:
    """Which has more rounds than the error that a search is told: it leaves a little less, and never more."""
    merge = bound(family, n)
    for heads in ((0, 1, 2, 3), (0, 2, 3, 4, 5)):
        told, measured = merge.group_error(heads), merge.measured_error(heads)
        assert 0.9 * told < measured <= told * (1 + 1e-9)


@pytest.mark.parametrize("family", ["llama", "qwen2", "gpt2", "opt"])
@pytest.mark.parametrize(("n", "best_of"), [(2, [(0, 1, 2), (3, 4, 5)]), (3, [(0, 1), (2, 3), (4, 5)])])
def test_never_worse_than_groups_of_as_much_memory(family: str, n: int, best_of: list[tuple[int, ...]]) -> None:
    groups = sum(bound(family, 1).group_errors(best_of))
    assert bound(family, n).group_error(tuple(range(HEADS))) < groups


def test_a_frequency_of_its_own_for_every_pair_is_the_same_problem() -> None:
    """Own dimensions spread over all of a joined head are found by the general way, to the same errors."""
    layer = source_layer("llama")
    statistics = wide_statistics(synthetic_statistics(layer, 0), 2)
    wide = joined_layer(layer, 2)
    turned = torch.linalg.qr(torch.randn(2, 2, generator=torch.Generator().manual_seed(0)))[0].to(wide.k)

    def mixed(rows: torch.Tensor) -> torch.Tensor:
        """Both copies of every frequency, rotated into each other."""
        return torch.einsum("ab,hfbd->hfad", turned, rows.unflatten(1, (-1, 2))).flatten(1, 2)

    general = replace(wide, k=mixed(wide.k), q=mixed(wide.q))
    assert len(own_dimensions(wide).keys) == 8 and len(own_dimensions(general).keys) == 16
    one, other = (make_merge("optimal").for_layer(weights, statistics) for weights in (wide, general))
    groups = [(0, 1, 2), (1, 2, 4, 5)]
    assert other.group_errors(groups) == pytest.approx(one.group_errors(groups), rel=2e-2)


def test_a_merged_layer_keeps_single_heads() -> None:
    merge = bound("llama", 2)
    merged = merge.merge(LayerGrouping.from_labels([0, 0, 0, 1, 1, 1]))
    assert merged.k.shape == (2, 16, merge.source.k.shape[2]) and merged.joined == 2


@pytest.mark.parametrize(("d", "r", "n"), [(8, 8, 2), (8, 8, 3), (8, 4, 2), (8, 0, 2)])
def test_places_are_distinct_and_keep_pairs(d: int, r: int, n: int) -> None:
    places = joined_places(d, r, n).tolist()
    assert len(set(places)) == d and max(places) < n * d
    half = n * r // 2
    assert [place + half for place in places[: r // 2]] == places[r // 2 : r]
