"""Errors of groups: against explicit tokens and positions, closed forms, and each other."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from itertools import combinations, pairwise
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from gqasearch.merging import MERGES, LayerMerge, MergedGroup, make_merge, shared_rotated, shared_subspace
from gqasearch.merging.aligned_layer import AlignedLayer
from gqasearch.merging.error import error_parts, measured_error
from gqasearch.merging.positions import ANYWHERE
from gqasearch.models import LayerWeights
from tests.matrix import FAMILIES, SOURCES, examples, sampled, values_of
from tests.merging.layers import MATRIX, bound, source_layer, wide
from tests.samples import synthetic_statistics
from tests.tiny_models import kv_head_choices

LINEAR = [case for case in FAMILIES if case != "qwen3"]  # no head norms
CLOSE = [(0, 1), (0, 2), (0, 1, 2)]


def on_sample(name: str, family: str) -> LayerMerge:
    """A bound merge whose moments are exactly those of the statistics' sample."""
    layer = source_layer(family)
    statistics = synthetic_statistics(layer)
    x = statistics.sample.double()
    moment, mean = x.T @ x / len(x), x.mean(0)
    of_sample = {"second_moment": moment, "mean": mean, "attended_moment": moment, "attended_mean": mean}
    return make_merge(name).for_layer(layer, replace(statistics, **of_sample))


def rotated_scores(q: Tensor, k: Tensor, turn: Tensor) -> Tensor:
    """Scores (T, T) of every query with every key when each RoPE pair is turned by ``turn`` (r/2,), complex."""
    half = len(turn)
    pairs = torch.complex(q[:, :half], q[:, half : 2 * half])[:, None]
    pairs = pairs * torch.complex(k[:, :half], -k[:, half : 2 * half])[None]
    return (pairs * turn).real.sum(-1)


def explicit_error(merge: LayerMerge, group: MergedGroup, heads: tuple[int, ...]) -> float:
    """Sums over tokens and relative positions; what all keys of a query share is left out where nothing rotates."""
    w, stats = wide(merge), merge.require_statistics()
    x, r, total = stats.sample.double(), wide(merge).rotary_dim, 0.0

    def rows(weight: Tensor, bias: Tensor | None) -> Tensor:
        return x @ weight.T + (0 if bias is None else bias)

    def of(bias: Tensor | None, head: int) -> Tensor | None:
        return None if bias is None else bias[head]

    length = stats.distance.shape[1]
    anywhere = torch.tensor([length - back for back in range(length)], dtype=torch.float64)
    for slot, head in enumerate(heads):
        wrong = rows(w.v[head], of(w.v_bias, head)) @ w.o[head].T - rows(group.v, group.v_bias) @ group.o[slot].T
        total += float(wrong.square().sum(1).mean())
        q, k = rows(w.q[head], of(w.q_bias, head)), rows(w.k[head], of(w.k_bias, head))
        q_new, k_new = rows(group.q[slot], of(group.q_bias, slot)), rows(group.k, group.k_bias)
        rest, rest_new = (y[:, r:] - y[:, r:].mean(0) for y in (k, k_new))
        error = float((q[:, r:] @ rest.T - q_new[:, r:] @ rest_new.T).square().mean())
        shares = (1 - ANYWHERE) * stats.distance[head] + ANYWHERE * anywhere / anywhere.sum()
        for share, turn in zip(shares, torch.complex(stats.cosines, stats.sines), strict=True):
            wrong = rotated_scores(q, k, turn) - rotated_scores(q_new, k_new, turn)
            error += float(share * wrong.square().mean())
        total += float(stats.score_gain[head]) * error / w.head_dim
    return total


@pytest.mark.parametrize("family", ["llama", "qwen2", "gpt_neox", "opt"])
@pytest.mark.parametrize("name", ["mean", "aligned", "optimal"])
def test_error_counts_what_the_layer_computes(name: str, family: str) -> None:
    merge = on_sample(name, family)
    group = merge.merge_group((1, 4))
    measured = measured_error(merge.source, group, (1, 4), merge.require_statistics())
    assert measured == pytest.approx(explicit_error(merge, group, (1, 4)), rel=1e-9)


def test_what_all_keys_share_costs_nothing_where_nothing_rotates() -> None:
    """Softmax of OPT's scores does not see a constant of the keys; with RoPE it turns with the position."""
    for family, free in (("opt", True), ("qwen2", False)):
        merge = bound("mean", family)
        group = merge.merge_group((0, 1))
        assert group.k_bias is not None
        shifted = replace(group, k_bias=group.k_bias + 3.0)
        errors = [error_parts(merge.source, g, (0, 1), merge.require_statistics())[1] for g in (group, shifted)]
        assert (errors[1] == pytest.approx(errors[0], rel=1e-9)) is free


@pytest.mark.parametrize(("name", "family"), [case for case in MATRIX if "qwen3" not in values_of(case)])
def test_closed_form_error_equals_the_measured_one(name: str, family: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shared_rotated, "SEARCH_ROUNDS", shared_rotated.ROUNDS)
    merge = bound(name, family)
    for heads in [(0, 1), (1, 3, 4), (0, 1, 2, 3, 4, 5)]:
        measured = measured_error(merge.source, merge.merge_group(heads), heads, merge.require_statistics())
        assert merge.group_error(heads) == pytest.approx(measured, rel=1e-9)


@pytest.mark.parametrize(("family", "kv_heads"), SOURCES)
@pytest.mark.parametrize("seed", sampled(range(3), [0]))
def test_optimal_never_exceeds_the_other_merges(family: str, kv_heads: int, seed: int) -> None:
    errors = {}
    for name in MERGES:
        merge = bound(name, family, seed, kv_heads=kv_heads)
        errors[name] = [merge.group_error(heads) for heads in CLOSE]
    for name, values in errors.items():
        assert all(o <= v * (1 + 1e-9) for o, v in zip(errors["optimal"], values, strict=True)), name
    assert errors["optimal"][0] < 0.9 * errors["mean"][0]


@pytest.mark.parametrize(("family", "kv_heads"), SOURCES)
@pytest.mark.parametrize("seed", sampled(range(5), [1]))
def test_aligned_never_exceeds_the_mean(family: str, kv_heads: int, seed: int) -> None:
    """In neither part."""
    aligned, mean = bound("aligned", family, seed, kv_heads=kv_heads), bound("mean", family, seed, kv_heads=kv_heads)
    statistics = aligned.require_statistics()
    for heads in CLOSE:
        parts = [error_parts(m.source, m.merge_group(heads), heads, statistics) for m in (aligned, mean)]
        assert all(a <= b * (1 + 1e-12) for a, b in zip(*parts, strict=True))
        assert aligned.group_error(heads) < 0.9 * mean.group_error(heads)


def test_no_small_change_lowers_the_optimal_merge(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the alternation has come to rest: random steps of shared heads and of what reads them, several sizes."""
    for name in ("ROUNDS", "SEARCH_ROUNDS"):
        monkeypatch.setattr(shared_rotated, name, 2000)
    for family in ("llama", "opt", "gpt_neox"):
        merge = bound("optimal", family)
        heads = (0, 2, 5)
        best, group = merge.group_error(heads), merge.merge_group(heads)
        generator = torch.Generator().manual_seed(0)
        for step in (1e-1, 1e-2, 1e-3):
            for name in ("k", "v", "q", "o"):
                tensor = getattr(group, name)
                noise = torch.randn(tensor.shape, generator=generator, dtype=torch.float64) * tensor.std() * step
                changed = replace(group, **{name: tensor + noise})
                assert measured_error(merge.source, changed, heads, merge.require_statistics()) >= best * (1 - 1e-7)


@pytest.mark.parametrize("family", ["llama", "qwen2", "gpt_neox"])
def test_every_round_lowers_the_error(family: str, monkeypatch: pytest.MonkeyPatch) -> None:
    errors = []
    for rounds in (0, 1, 2, 5, 20):
        monkeypatch.setattr(shared_rotated, "SEARCH_ROUNDS", rounds)
        errors.append(bound("optimal", family).group_error((0, 2, 5)))
    assert all(one > two for one, two in pairwise(errors))


@pytest.mark.parametrize("family", ["llama", "qwen3", "gpt_neox"])
def test_a_head_that_writes_nothing_costs_nothing(family: str) -> None:
    """As the empty slots of a query-padded checkpoint: no score of theirs matters at any distance."""
    layer, statistics = source_layer(family), synthetic_statistics(source_layer(family))
    o, gain, distance = layer.o.clone(), statistics.score_gain.clone(), statistics.distance.clone()
    o[2], gain[2], distance[2] = 0.0, 0.0, 0.0
    silent = replace(statistics, score_gain=gain, distance=distance)
    merge = make_merge("optimal").for_layer(replace(layer, o=o), silent)
    assert merge.group_error((1, 2)) == pytest.approx(0.0, abs=1e-9)
    if family != "qwen3":  # there the plain mean of the three may be the best of its three candidates
        assert merge.group_error((1, 2, 3)) == pytest.approx(merge.group_error((1, 3)), rel=1e-6)


def test_without_rope_the_queries_are_no_worse_than_any_map() -> None:
    """OPT: random matrices between the shared key and each query's reading of it."""
    merge = bound("optimal", "opt")
    heads, generator = (1, 3), torch.Generator().manual_seed(0)
    best, group = merge.group_error(heads), merge.merge_group(heads)
    assert group.q_bias is not None
    for step in (1e-1, 1e-3):
        maps = torch.eye(8).double() + step * torch.randn(2, 8, 8, generator=generator, dtype=torch.float64)
        bias = (maps @ group.q_bias[..., None])[..., 0]
        changed = replace(group, q=maps @ group.q, q_bias=bias)
        assert measured_error(merge.source, changed, heads, merge.require_statistics()) > best


@pytest.mark.parametrize("name", sorted(MERGES))
def test_error_of_one_head_is_zero(name: str) -> None:
    merge = bound(name, "qwen2")
    assert merge.group_error((3,)) == 0.0
    assert merge.group_error((0, 3)) > 0.0


@pytest.mark.parametrize("family", LINEAR)
def test_splitting_a_group_never_raises_the_optimal_error(family: str) -> None:
    merge = bound("optimal", family)
    whole = merge.group_error((0, 1, 2, 3))
    assert merge.group_error((0, 1)) + merge.group_error((2, 3)) <= whole * (1 + 1e-9)
    assert merge.group_error((0, 2, 3)) <= whole * (1 + 1e-9)


together = st.lists(st.sets(st.integers(0, 5), min_size=1).map(lambda heads: tuple(sorted(heads))), max_size=30)


@cache
def alone(name: str, family: str) -> LayerMerge:
    """A merge that is asked for one group at a time, and remembers them."""
    return bound(name, family, kv_heads=kv_head_choices(family)[0])


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("name", ["mean", "optimal", "aligned-renorm"])
@given(groups=together)
@settings(max_examples=examples(15))
def test_an_error_has_the_same_bits_whatever_is_computed_beside_it(
    name: str, family: str, groups: list[tuple[int, ...]]
) -> None:
    merge = bound(name, family, kv_heads=kv_head_choices(family)[0])
    groups = [heads for heads in groups if heads[-1] < merge.source.num_kv_heads]
    assert merge.group_errors(groups) == [alone(name, family).group_error(heads) for heads in groups]


class Products(TorchDispatchMode):
    """Notes how the matrices of every product lie in memory: libraries choose their way by it, and so the last bits."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: set[tuple[Any, ...]] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func.overloadpacket in (torch.ops.aten.bmm, torch.ops.aten.mm):
            self.seen.add((str(func), *map(_lies, args)))
        return func(*args, **(kwargs or {}))


def _lies(matrix: Tensor) -> tuple[Any, ...]:
    """Size and strides of a matrix (..., r, c), those along a single row, column or matrix left out."""
    shape, stride = matrix.shape, matrix.stride()
    used = tuple(step if size > 1 else None for size, step in zip(shape[-2:], stride[-2:], strict=True))
    return (*shape[-2:], *used, matrix.dtype)


@pytest.mark.parametrize("family", ["llama", "opt", "gpt_neox"])
@pytest.mark.parametrize("name", ["optimal", "aligned"])
def test_products_lie_alike_whatever_is_computed_beside_them(name: str, family: str) -> None:
    """On some processors a product of a transposed view has other last bits than that of its copy."""
    groups = [(0, 1, 4), (1, 2, 3), (0, 2, 5), (3, 4, 5)]
    together, alone = Products(), Products()
    one, other = bound(name, family), bound(name, family)
    with together:
        one.group_errors(groups)
    with alone:
        for heads in groups:
            other.group_error(heads)
    assert together.seen == alone.seen


@pytest.mark.parametrize("family", ["llama", "opt", "gpt_neox"])
def test_stacks_of_any_height_give_the_same_bits(family: str, monkeypatch: pytest.MonkeyPatch) -> None:
    groups = [heads for size in range(2, 6) for heads in combinations(range(6), size)]
    found = []
    for height in (1, 2**12, 2**30):
        for module in (shared_rotated, shared_subspace):
            monkeypatch.setattr(module, "STACK", height)
        found.append(bound("optimal", family).group_errors(groups))
    assert found[0] == found[1] == found[2]


def test_every_group_is_computed_once(monkeypatch: pytest.MonkeyPatch) -> None:
    merge, asked = bound("mean", "llama"), []
    monkeypatch.setattr(merge, "_group_errors", lambda groups, side: asked.append(groups) or [1.0] * len(groups))
    assert merge.group_errors([(0, 1), (3,), (0, 1), (2, 4)]) == [1.0, 0.0, 1.0, 1.0]
    assert merge.group_errors([(2, 4), (5,)]) == [1.0, 0.0] and merge.group_error((0, 1)) == 1.0
    assert asked == [[(0, 1), (2, 4)]]


def test_solves_take_what_rounding_has_made_indefinite() -> None:
    """One such matrix in a stack of positive ones, each with right sides as rows."""
    matrices = [[[2.0, 1.0], [1.0, 3.0]], [[0.0, 1.0], [1.0, 0.0]], [[0.0, 0.0], [0.0, 0.0]]]
    rows = [[[1.0, 2.0], [0.0, 1.0], [3.0, 3.0]], [[1.0, 2.0], [4.0, 5.0], [0.0, 0.0]], [[0.0, 0.0]] * 3]
    matrix, right = torch.tensor(matrices, dtype=torch.float64), torch.tensor(rows, dtype=torch.float64)
    found, ridge = shared_rotated._solve(matrix.clone(), right)
    assert ridge.shape == (3, 1, 1) and ridge[0, 0, 0] == pytest.approx(2.5 * shared_rotated.RIDGE)
    torch.testing.assert_close(found @ matrix, right, rtol=1e-9, atol=1e-9)
    assert not found[2].any()


def rank_deficient(layer: LayerWeights) -> LayerWeights:
    """Heads that nothing reads, keys that are zero, a W_o of rank one."""
    k, q, o = layer.k.clone(), layer.q.clone(), layer.o.clone()
    k[0], q[1], o[2] = 0, 0, o[2][:, :1] @ o[2][:1]
    return replace(layer, k=k, q=q, o=o)


@pytest.mark.parametrize(("name", "family"), MATRIX)
def test_degenerate_heads_give_finite_results(name: str, family: str) -> None:
    layer = rank_deficient(source_layer(family))
    merge = make_merge(name).for_layer(layer, synthetic_statistics(layer))
    for heads in CLOSE:
        group = merge.merge_group(heads)
        assert all(torch.isfinite(t).all() for t in vars(group).values() if isinstance(t, Tensor))
        assert 0 <= merge.group_error(heads) < 1e6


def test_where_procrustes_would_do_harm_heads_stay_unaligned() -> None:
    """Values that agree where they are read and are loud where nothing reads them; keys that agree likewise.

    Procrustes turns the loud parts onto each other, and what is read with them.
    """
    layer = source_layer("opt")
    k, v, q, o = layer.k.clone(), layer.v.clone(), layer.q.clone(), layer.o.clone()
    for rows, reads in ((k, q.mT), (v, o)):
        rows[:, :4] = rows[:1, :4]
        rows[:, 4:] *= 20
        reads[..., 4:] = 0
    deaf = replace(layer, k=k, v=v, q=q, o=o, q_bias=torch.zeros_like(q[..., 0]))
    statistics = synthetic_statistics(deaf)
    merge, mean = (make_merge(name).for_layer(deaf, statistics) for name in ("aligned", "mean"))
    assert isinstance(merge, AlignedLayer)
    parts = [
        error_parts(merge.source, g, (0, 1), statistics)
        for g in (merge.aligned_group((0, 1)), merge.merge_group((0, 1)))
    ]
    assert parts[0][0] > 1.0 and parts[0][1] > 1.0
    assert parts[1] == error_parts(mean.source, mean.merge_group((0, 1)), (0, 1), statistics)
