"""Each merge's own rule against arithmetic written out, and what is refused."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from gqasearch.errors import UserError
from gqasearch.merging import MERGES, make_merge
from gqasearch.merging.procrustes import align
from tests.matrix import FAMILIES
from tests.merging.layers import bound, orthogonal, wide
from tests.samples import synthetic_statistics
from tests.tiny_models import tiny_parent


@pytest.mark.parametrize("family", FAMILIES)
def test_mean_is_the_mean(family: str) -> None:
    merge = bound("mean", family)
    w, group = wide(merge), merge.merge_group((0, 2, 5))
    torch.testing.assert_close(group.k, (w.k[0] + w.k[2] + w.k[5]) / 3)
    torch.testing.assert_close(group.v, (w.v[0] + w.v[2] + w.v[5]) / 3)
    if w.k_bias is not None:
        torch.testing.assert_close(group.k_bias, (w.k_bias[0] + w.k_bias[2] + w.k_bias[5]) / 3)
    assert torch.equal(group.q, w.q[[0, 2, 5]]) and torch.equal(group.o, w.o[[0, 2, 5]])


@pytest.mark.parametrize("family", ["llama", "qwen2", "opt"])
@pytest.mark.parametrize("seed", range(4))
def test_medoid_is_the_nearest_by_brute_force(family: str, seed: int) -> None:
    merge = bound("medoid", family, seed)
    heads = (0, 1, 3, 4)
    group = merge.merge_group(heads)
    for role, chosen, bias in (("k", group.k, group.k_bias), ("v", group.v, group.v_bias)):
        rows, biases = getattr(wide(merge), role), getattr(wide(merge), f"{role}_bias")

        def distance(one: int, other: int, rows: torch.Tensor = rows, biases: torch.Tensor | None = biases) -> float:
            extra = 0.0 if biases is None else float((biases[one] - biases[other]).square().sum())
            return float((rows[one] - rows[other]).square().sum()) + extra

        best = min(heads, key=lambda one: sum(distance(one, other) for other in heads))
        assert torch.equal(chosen, rows[best])
        assert biases is None or torch.equal(bias, biases[best])


@pytest.mark.parametrize("heads", [(0, 1), (2, 5), (3, 4)])
def test_medoid_of_two_is_the_larger(heads: tuple[int, int]) -> None:
    merge = bound("medoid", "llama")
    group = merge.merge_group(heads)
    for rows, chosen in ((wide(merge).k, group.k), (wide(merge).v, group.v)):
        assert torch.equal(chosen, max((rows[head] for head in heads), key=torch.linalg.vector_norm))


def test_weighted_mean_by_norm() -> None:
    merge = bound("weighted-mean", "llama")
    w, group, heads = wide(merge), merge.merge_group((1, 2, 4)), [1, 2, 4]
    for rows, merged in ((w.k, group.k), (w.v, group.v)):
        norms = [float(rows[head].square().sum()) ** 0.5 for head in heads]
        wanted = sum((norm * rows[head] for norm, head in zip(norms, heads, strict=True)), torch.zeros(()))
        torch.testing.assert_close(merged, wanted / sum(norms))


@pytest.mark.parametrize(("family", "kv_heads"), [("llama", 6), ("llama", 3), ("qwen2", 6), ("opt", 6)])
def test_weighted_mean_by_query_energy(family: str, kv_heads: int) -> None:
    """K by the energy of its queries over the sample's tokens, V by that of its W_o."""
    layer = tiny_parent(family, kv_heads=kv_heads).layer(0)
    statistics = synthetic_statistics(layer)
    x = statistics.sample.double()
    statistics = replace(statistics, second_moment=x.T @ x / len(x), mean=x.mean(0))
    merge = make_merge("weighted-mean", {"weight": "query-energy"}).for_layer(layer, statistics)
    w, m = wide(merge), layer.queries_per_kv
    group, key, value = merge.merge_group((0, 2)), [], []
    for head in (0, 2):
        mine = range(head * m, head * m + m)
        q = [x @ w.q[i].T + (0 if w.q_bias is None else w.q_bias[i]) for i in mine]
        key.append(sum(float(rows.square().sum(1).mean()) for rows in q))
        value.append(sum(float(w.o[i].square().sum()) for i in mine))
    torch.testing.assert_close(group.k, (key[0] * w.k[0] + key[1] * w.k[2]) / sum(key))
    torch.testing.assert_close(group.v, (value[0] * w.v[0] + value[1] * w.v[2]) / sum(value))
    assert torch.equal(group.o, w.o[[i for head in (0, 2) for i in range(head * m, head * m + m)]])


def test_heads_without_weight_share_equally() -> None:
    layer = tiny_parent("llama").layer(0)
    silent = replace(layer, q=torch.zeros_like(layer.q))
    merge = make_merge("weighted-mean", {"weight": "query-energy"}).for_layer(silent, synthetic_statistics(layer))
    torch.testing.assert_close(merge.merge_group((0, 1)).k, wide(merge).k[:2].mean(0))


def test_norm_is_restored_in_the_weights() -> None:
    merge = bound("mean-renorm", "llama")
    group = merge.merge_group((0, 1, 2))
    for merged, sources in ((group.k, wide(merge).k[:3]), (group.v, wide(merge).v[:3])):
        assert float(merged.norm()) == pytest.approx(float(sources.flatten(1).norm(dim=1).mean()), rel=1e-12)


@pytest.mark.parametrize("family", ["llama", "qwen2", "gpt_neox"])
def test_norm_is_restored_in_the_activations(family: str) -> None:
    """Root mean square over the sample's tokens; dimensions that nothing rotates count without their mean."""
    layer = tiny_parent(family).layer(0)
    statistics = synthetic_statistics(layer)
    x, r = statistics.sample.double(), layer.rotary_dim
    statistics = replace(statistics, second_moment=x.T @ x / len(x), mean=x.mean(0))
    merge = make_merge("aligned-renorm").for_layer(layer, statistics)
    w, group = wide(merge), merge.merge_group((0, 1, 2))

    def norm(rows: torch.Tensor, bias: torch.Tensor | None, kept: int) -> float:
        y = x @ rows.T + (0 if bias is None else bias)
        y = torch.cat([y[:, :kept], y[:, kept:] - y[:, kept:].mean(0)], 1)
        return float(y.square().sum(1).mean()) ** 0.5

    def own(rows: torch.Tensor, biases: torch.Tensor | None, kept: int) -> float:
        return sum(norm(rows[h], None if biases is None else biases[h], kept) for h in range(3)) / 3

    assert norm(group.k, group.k_bias, r) == pytest.approx(own(w.k, w.k_bias, r), rel=1e-9)
    assert norm(group.v, group.v_bias, 8) == pytest.approx(own(w.v, w.v_bias, 8), rel=1e-9)


def cross_moments(rows: torch.Tensor) -> torch.Tensor:
    """E[y_h y_j^*] of samples y (n, T, s), as one problem: (1, n, s, n, s)."""
    return torch.einsum("htx,jty->hxjy", rows, rows.conj())[None] / rows.shape[1]


def spread(rows: torch.Tensor, maps: torch.Tensor) -> float:
    """sum_h E||Q_h^* y_h - mean||^2 of samples y (n, T, s) turned by Q (n, s, s)."""
    aligned = rows @ maps.conj()
    return float((aligned - aligned.mean(0)).abs().square().sum())


@settings(max_examples=20)
@given(seed=st.integers(0, 10_000), heads=st.integers(2, 5), size=st.integers(1, 4), real=st.booleans())
def test_alignment_only_lowers_its_own_criterion(seed: int, heads: int, size: int, real: bool) -> None:
    generator = torch.Generator().manual_seed(seed)
    kind = torch.float64 if real else torch.complex128
    rows = torch.randn(heads, 30, size, generator=generator, dtype=kind)
    maps = align(cross_moments(rows))[0]
    eye = torch.eye(size, dtype=kind).expand(heads, size, size)
    torch.testing.assert_close(maps @ maps.mH, eye)
    total = maps.sum(0)
    torch.testing.assert_close(total, total.mH)
    assert float(torch.linalg.eigvalsh(total)[0]) > -1e-9
    assert spread(rows, maps) <= spread(rows, eye) * (1 + 1e-9)


def test_two_heads_are_aligned_as_by_the_closed_form() -> None:
    """Two heads: the orthogonal Procrustes problem (Schoenemann, 1966)."""
    rows = torch.randn(2, 50, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    left, _, right = torch.linalg.svd(rows[1].T @ rows[0])
    first, second = align(cross_moments(rows))[0]
    torch.testing.assert_close(second @ first.mT, left @ right)


def test_noisy_turned_copies_are_found_whatever_the_start() -> None:
    """From the identity alone a local optimum would do: many heads of one shape, some of them mirrored."""
    generator = torch.Generator().manual_seed(0)
    shape = torch.randn(50, 4, generator=generator, dtype=torch.float64)
    turns = torch.stack([orthogonal(4, generator) for _ in range(6)])
    rows = shape @ turns.mT + 0.01 * torch.randn(6, 50, 4, generator=generator, dtype=torch.float64)
    found = align(cross_moments(rows))[0]
    assert spread(rows, found) <= spread(rows, turns) * (1 + 1e-9)


def test_what_is_needed_follows_from_the_parameters() -> None:
    needs = {name: kind().needs for name, kind in MERGES.items()}
    assert {name for name, need in needs.items() if need == "statistics"} == {"aligned", "aligned-renorm", "optimal"}
    assert make_merge("weighted-mean", {"weight": "query-energy"}).needs == "statistics"
    layer = tiny_parent("llama").layer(0)
    for name, need in needs.items():
        if need == "weights":
            assert make_merge(name).for_layer(layer).merge_group((0, 1)).k.shape == (8, 48)


def test_what_a_merge_cannot_take_is_refused() -> None:
    layer = tiny_parent("llama").layer(0)
    for name in ("optimal", "aligned", "aligned-renorm"):
        with pytest.raises(UserError, match=f"merge {name} needs calibration statistics"):
            make_merge(name).for_layer(layer)
    with pytest.raises(UserError, match="weighted-mean with weight=query-energy needs calibration statistics"):
        make_merge("weighted-mean", {"weight": "query-energy"}).for_layer(layer)
    with pytest.raises(UserError, match="error of a merge needs calibration statistics"):
        make_merge("mean").for_layer(layer).group_error((0, 1))


def test_misspelt_names_and_parameters_are_refused() -> None:
    with pytest.raises(UserError, match="did you mean 'optimal'"):
        make_merge("optimall")
    with pytest.raises(UserError, match="unknown parameter of merge mean 'x'"):
        make_merge("mean", {"x": 1})
    with pytest.raises(UserError, match="'key-norm' or 'query-energy'"):
        make_merge("weighted-mean", {"weight": "norm"})
