"""Merges: exact where nothing is shared, and the closed form against independent arithmetic."""

from __future__ import annotations

from dataclasses import fields, replace

import pytest
import torch

from gqasearch.errors import UserError
from gqasearch.grouping import LayerGrouping
from gqasearch.merging import MERGES, LayerMerge, make_merge
from gqasearch.merging.error import measured_error
from gqasearch.models import LayerWeights, layers_replaced, tie_heads
from tests.samples import logits_of, random_blocks, synthetic_statistics
from tests.tiny_models import tiny_parent

FAMILIES = ("llama", "mistral", "qwen2", "qwen3")


def bound(name: str, family: str, seed: int = 0, **options: object) -> LayerMerge:
    layer = tiny_parent(family, seed=seed, **options).layer(0)
    return make_merge(name).for_layer(layer, synthetic_statistics(layer, seed))


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("name", sorted(MERGES))
def test_singletons_are_bit_equal(name: str, family: str) -> None:
    merge = bound(name, family)
    merged = merge.merge(LayerGrouping.singletons(6))
    for field in fields(LayerWeights):
        before, after = getattr(merge.source, field.name), getattr(merged, field.name)
        assert torch.equal(before, after) if isinstance(before, torch.Tensor) else before == after


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("kv_heads", [6, 3])
def test_merging_identical_heads_leaves_logits_unchanged(family: str, kv_heads: int) -> None:
    """Heads that are copies of one another can share, whatever the merge."""
    parent = tiny_parent(family, heads=6, kv_heads=kv_heads)
    blocks = random_blocks(parent.config["vocab_size"])
    layer = parent.layer(0)
    copies = (0,) * kv_heads
    same = replace(
        layer,
        k=layer.k[list(copies)],
        v=layer.v[list(copies)],
        k_bias=None if layer.k_bias is None else layer.k_bias[list(copies)],
        v_bias=None if layer.v_bias is None else layer.v_bias[list(copies)],
    )
    everything = LayerGrouping.from_labels(copies)
    with layers_replaced(parent, {0: same}):
        before = logits_of(parent, blocks)
    for name in MERGES:
        merged = make_merge(name).for_layer(same, synthetic_statistics(same)).merge(everything)
        with layers_replaced(parent, {0: tie_heads(merged, copies, 6 // kv_heads)}):
            assert torch.allclose(logits_of(parent, blocks), before, atol=2e-5), name


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("kv_heads", [6, 3])
@pytest.mark.parametrize("seed", range(3))
def test_optimal_never_exceeds_the_other_merges(family: str, kv_heads: int, seed: int) -> None:
    errors = {}
    for name in MERGES:
        merge = bound(name, family, seed, heads=6, kv_heads=kv_heads)
        errors[name] = [merge.group_error(heads) for heads in [(0, 1), (0, 2), (0, 1, 2)]]
    for name, values in errors.items():
        assert all(o <= v * (1 + 1e-9) for o, v in zip(errors["optimal"], values, strict=True)), name
    assert errors["optimal"][0] < 0.9 * errors["mean"][0]


@pytest.mark.parametrize("family", ["llama", "qwen2"])
def test_closed_form_error_equals_the_measured_one(family: str) -> None:
    merge = bound("optimal", family)
    for heads in [(0, 1), (1, 3, 4), (0, 1, 2, 3, 4, 5)]:
        measured = measured_error(merge.weights, merge.merge_group(heads), heads, merge.require_statistics())
        assert merge.group_error(heads) == pytest.approx(measured, rel=1e-9)


def test_no_small_change_lowers_the_optimal_merge() -> None:
    """Stationarity and more: random steps of the shared heads and of what reads them, several sizes."""
    merge = bound("optimal", "llama")
    heads = (0, 2, 5)
    best, group = merge.group_error(heads), merge.merge_group(heads)
    generator = torch.Generator().manual_seed(0)
    for step in (1e-1, 1e-2, 1e-3):
        for name in ("k", "v", "q", "o"):
            tensor = getattr(group, name)
            noise = torch.randn(tensor.shape, generator=generator, dtype=torch.float64) * tensor.std() * step
            changed = replace(group, **{name: tensor + noise})
            # Without a rotation-commuting structure queries could do better; keep to a common factor per head.
            if name == "q":
                changed = replace(group, q=tensor * (1 + step))
            assert measured_error(merge.weights, changed, heads, merge.require_statistics()) >= best * (1 - 1e-12)


def test_error_counts_what_the_layer_computes() -> None:
    """The measured error against sums over explicit tokens and relative positions."""
    merge = bound("mean", "llama")
    heads, stats, w = (1, 4), merge.require_statistics(), merge.weights
    group, x = merge.merge_group(heads), None
    x = stats.sample.double()
    stats = replace(stats, second_moment=x.T @ x / len(x))
    value, score = 0.0, 0.0
    for slot, head in enumerate(heads):
        wrong = x @ (w.o[head] @ w.v[head] - group.o[slot] @ group.v).T
        value += float(stats.value_gain[head] * wrong.square().sum(1).mean())
        q, q_new, k, k_new = (x @ m.T for m in (w.q[head], group.q[slot], w.k[head], group.k))
        half = w.head_dim // 2
        total = torch.zeros(())
        for angle in torch.arange(8) * torch.pi / 4:  # evenly spaced: the mean over a turn is exact
            turn = torch.polar(torch.ones(()).double(), angle.double())
            old = torch.complex(q[:, :half], q[:, half:])[:, None] * torch.complex(k[:, :half], -k[:, half:])[None]
            new = torch.complex(q_new[:, :half], q_new[:, half:])[:, None]
            new = new * torch.complex(k_new[:, :half], -k_new[:, half:])[None]
            total = total + (turn * (old - new)).real.square().sum(-1).mean() / 8
        score += float(stats.score_gain[head] * total / w.head_dim)
    assert measured_error(w, group, heads, stats) == pytest.approx(value + score, rel=1e-9)


@pytest.mark.parametrize("name", sorted(MERGES))
def test_error_of_one_head_is_zero_and_order_does_not_matter(name: str) -> None:
    merge = bound(name, "qwen2")
    assert merge.group_error((3,)) == 0.0
    assert merge.group_error((0, 3)) > 0.0


def test_splitting_a_group_never_raises_the_optimal_error() -> None:
    merge = bound("optimal", "llama")
    whole = merge.group_error((0, 1, 2, 3))
    assert merge.group_error((0, 1)) + merge.group_error((2, 3)) <= whole * (1 + 1e-9)
    assert merge.group_error((0, 2, 3)) <= whole * (1 + 1e-9)


def test_norm_is_restored() -> None:
    merge = bound("mean-renorm", "llama")
    group = merge.merge_group((0, 1, 2))
    for merged, sources in ((group.k, merge.weights.k[:3]), (group.v, merge.weights.v[:3])):
        assert float(merged.norm()) == pytest.approx(float(sources.flatten(1).norm(dim=1).mean()), rel=1e-12)


def test_what_a_merge_cannot_take_is_refused() -> None:
    layer = tiny_parent("llama").layer(0)
    with pytest.raises(UserError, match="needs calibration statistics"):
        make_merge("optimal").for_layer(layer)
    with pytest.raises(UserError, match="RoPE over the whole head"):
        make_merge("optimal").for_layer(replace(layer, rotary_dim=4), synthetic_statistics(layer))
    with pytest.raises(UserError, match="did you mean 'optimal'"):
        make_merge("optimall")
    with pytest.raises(UserError, match="unknown parameter of merge mean 'x'"):
        make_merge("mean", {"x": 1})
