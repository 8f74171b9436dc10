"""What a bound merge is made of: moments of heads, what it keeps of its layer, what a search is told of its errors."""

from __future__ import annotations

from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.stats import spearmanr

from gqasearch.calibration import load_documents, load_or_collect, make_blocks
from gqasearch.merging import LayerMerge, held_bytes, make_merge, moments, shared_rotated, shared_subspace
from gqasearch.merging.moments import cross_moments
from gqasearch.merging.optimal_layer import OptimalLayer
from gqasearch.merging.score_pairs import query_moments, to_pairs
from gqasearch.merging.shared_pairs import SharedPairs
from gqasearch.merging.shared_rotated import side_by_side
from gqasearch.models import load_parent
from gqasearch.threads import pinned
from tests.merging.layers import bound, wide


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize("rows", [1, 8, 13, 1000])
def test_cross_moments_a_few_heads_at_a_time(rows: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(moments, "ROWS", rows)
    x, weights = random(50, 9), random(5, 4, 9, seed=1)
    y = x @ weights.mT  # (H, T, s)
    wanted = torch.einsum("hta,jtb->hjab", y, y) / len(x)
    torch.testing.assert_close(cross_moments(weights, x.T @ x / len(x)), wanted)


def test_moments_of_queries_by_head() -> None:
    for family in ("llama", "qwen2", "qwen3"):
        merge = bound("optimal", family)
        w, moment = wide(merge), merge.require_statistics().moment(merge.source.has_biases)
        rows = w.q if w.q_bias is None else torch.cat([w.q, w.q_bias[..., None]], 2)
        wanted = rows @ moment @ rows.mT
        if w.q_norm is not None:
            energy = wanted.diagonal(dim1=1, dim2=2).mean(1)[:, None, None]
            wanted = wanted * w.q_norm * w.q_norm[:, None] / energy
        torch.testing.assert_close(query_moments(merge.source, moment), wanted)


def test_pair_moments_are_those_of_the_complex_keys() -> None:
    x, keys = random(60, 10), random(4, 6, 10, seed=1)
    moment, energy = x.T @ x / len(x), random(4, 3, seed=2).square()
    order = side_by_side(6)
    found = SharedPairs(cross_moments(keys[:, order], moment), energy)
    pairs = (energy.sqrt()[..., None] * to_pairs(keys)).transpose(0, 1)
    torch.testing.assert_close(found.gram[:, :, 0, :, 0], pairs @ moment.to(pairs.dtype) @ pairs.mH)


@pytest.mark.parametrize("family", ["llama", "qwen2", "gpt_neox", "opt", "qwen3"])
@pytest.mark.parametrize("name", ["mean", "aligned", "optimal"])
def test_a_bound_layer_holds_no_wide_copy_of_its_weights_or_statistics(name: str, family: str) -> None:
    """Beside what it was given: moments between heads, of (H d)^2 numbers, and of their queries."""
    merge = bound(name, family)
    merge.group_errors([(0, 1), (0, 2, 3)])
    given = held_bytes(merge.source, merge.statistics)
    size = merge.source.num_kv_heads * merge.source.head_dim
    own = held_bytes(merge) - given
    assert own <= 8 * (3 * size**2 + 12 * len(merge.source.q) * merge.source.head_dim**2)
    assert (own == 0) is (name == "mean")


@pytest.mark.parametrize("name", ["optimal", "aligned"])
def test_errors_have_the_same_bits_on_any_number_of_threads(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (shared_rotated, shared_subspace):
        monkeypatch.setattr(module, "STACK", 1)
    groups, found = list(combinations(range(6), 3)), []
    for threads in (1, 2):
        with pinned(threads):
            found.append(bound(name, "llama").group_errors(groups))
    assert found[0] == found[1]


def test_the_error_told_to_a_search_is_close_to_that_of_the_merge(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A layer of the embedded model, on its own text."""
    parent = load_parent("embedded")
    blocks = make_blocks(load_documents("embedded", "calibration"), parent.tokenizer, 128, 1024, "calibration")
    statistics = load_or_collect(parent, blocks, root=tmp_path).layer(3)
    merge: LayerMerge = make_merge("optimal").for_layer(parent.layer(3), statistics)
    assert isinstance(merge, OptimalLayer)
    rng, told = np.random.default_rng(0), {}
    groups = np.array([rng.choice(12, size=4, replace=False) for _ in range(80)])
    for rounds in (0, shared_rotated.SEARCH_ROUNDS, shared_rotated.ROUNDS):
        monkeypatch.setattr(shared_rotated, "SEARCH_ROUNDS", rounds)
        told[rounds] = merge.values.errors(groups) + merge.rotated.errors(groups)
    start, search, final = told.values()
    assert spearmanr(search, final).statistic > 0.995 and spearmanr(start, final).statistic < 0.95
    assert (search >= final).all() and (search / final).mean() < 1.03 and (start / final).mean() > 1.3
