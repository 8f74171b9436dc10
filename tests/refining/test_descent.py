"""The descent against gradients of attention written out by hand, and whitening against doing without."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from gqasearch.grouping import Grouping, LayerGrouping
from gqasearch.models import LayerWeights, Parent, tie_heads
from gqasearch.refining import AttentionCall, Descent, LayerSite
from gqasearch.refining.descent import layer_loss, minibatches, typical_size
from gqasearch.refining.whitening import WhitenedCalls, Whitening
from tests.matrix import FAMILIES, SOURCES
from tests.models.test_families import attend
from tests.refining.cases import blocks_of, converter_of, site_error, site_of
from tests.tiny_models import tiny_parent

FITTED = ("q", "k", "v", "o", "q_bias", "k_bias", "v_bias")


def case(family: str, kv_heads: int, folder: Path) -> tuple[Parent, LayerSite, LayerWeights]:
    """The second layer, its heads shared, its padding at the end of the last block."""
    parent = tiny_parent(family, kv_heads=kv_heads)
    grouping = Grouping((LayerGrouping.singletons(kv_heads), LayerGrouping.neighbours(kv_heads, 2)))
    merged = converter_of(parent, folder).merged_layer(grouping, 1)
    return parent, site_of(parent, grouping, blocks_of(parent, blocks=8, padded=True), 1), merged


def plain(site: LayerSite) -> Whitening:
    """No whitening."""
    eye = torch.eye(site.calls[0].hidden.shape[-1], dtype=torch.float64)
    return Whitening(eye)


def by_hand(parent: Parent, site: LayerSite, weights: LayerWeights, call: AttentionCall) -> dict[str, Tensor]:
    """Gradients of the loss, through attention one head at a time (``attend``) and tying."""
    leaves = {
        name: tensor.clone().requires_grad_() for name in FITTED if (tensor := getattr(weights, name)) is not None
    }
    bias = dict(parent.model.named_parameters()).get(parent.family.tensor_name(1, "o.bias"), torch.zeros(()))
    tied = tie_heads(replace(weights, **leaves), site.layer, parent.geometry.queries_per_kv)
    wanted = call.wanted[call.mask]
    error = (attend(call.hidden, tied) + bias.detach())[call.mask] - wanted
    (error.square().sum(-1).mean() / wanted.square().sum(-1).mean()).backward()
    return {name: leaf.grad for name, leaf in leaves.items() if leaf.grad is not None}


@pytest.mark.parametrize(("family", "kv_heads"), SOURCES)
def test_gradients_are_those_of_attention_by_hand(family: str, kv_heads: int, tmp_path: Path) -> None:
    """The last batch holds the padded block; padding follows its tokens, so causal attention alone never sees it."""
    parent, site, weights = case(family, kv_heads, tmp_path)
    call = site.calls[-1]
    wanted = by_hand(parent, site, weights, call)
    leaves = {name: getattr(weights, name).clone().requires_grad_() for name in wanted}
    layer_loss(site, replace(weights, **leaves), call).backward()
    for name, gradient in wanted.items():
        torch.testing.assert_close(leaves[name].grad, gradient, atol=1e-5, rtol=1e-3, msg=name)
    assert all(p.grad is None for p in parent.model.parameters())


@pytest.mark.parametrize(("family", "kv_heads"), SOURCES)
def test_one_step_is_adams_first(family: str, kv_heads: int, tmp_path: Path) -> None:
    """Adam's first step: the learning rate times the sign of the gradient (almost: epsilon)."""
    parent, site, weights = case(family, kv_heads, tmp_path)
    only = replace(site, calls=list(site.calls)[:1])
    moved = Descent(steps=1, validate=False).descend(only, weights, plain(site), lambda: None)
    for name, gradient in by_hand(parent, site, weights, site.calls[0]).items():
        start = getattr(weights, name)
        step = Descent.learning_rate * typical_size(start) * gradient / (gradient.abs() + 1e-8)
        clear = gradient.abs() > 1e-6  # rounding cannot turn the sign; without RoPE key biases have no effect at all
        torch.testing.assert_close((start - getattr(moved, name))[clear], step[clear], atol=1e-6, rtol=2e-2)


@pytest.mark.parametrize("family", FAMILIES)
def test_whitened_weights_compute_the_same(family: str, tmp_path: Path) -> None:
    _, site, weights = case(family, 6, tmp_path)
    whitening = Whitening.of(site)
    with torch.no_grad():
        for call in site.calls:
            there = site.attend(whitening.into(weights), whitening.call(call))
            torch.testing.assert_close(there, site.attend(weights, call), atol=2e-5, rtol=1e-4)
    back = whitening.out_of(whitening.into(weights))
    for name in ("q", "k", "v", "o"):
        torch.testing.assert_close(getattr(back, name), getattr(weights, name), atol=1e-5, rtol=1e-4)


def test_whitened_inputs_are_white(tmp_path: Path) -> None:
    """Up to the floor on rare directions; padding left out."""
    _, site, _ = case("llama", 6, tmp_path)
    whitening = Whitening.of(site)
    x = torch.cat([call.hidden[call.mask] for call in site.calls]).double()
    moment = x.T @ x / len(x)
    floor = 1e-3 * moment.diagonal().mean() * torch.eye(len(moment))
    torch.testing.assert_close(whitening.root @ whitening.root.T, moment + floor, atol=1e-8, rtol=1e-8)
    white = torch.cat([whitening.call(call).hidden[call.mask] for call in site.calls]).double()
    values = torch.linalg.eigvalsh(white.T @ white / len(white))
    assert values.max() < 1 + 1e-4 and values.median() > 0.8


def test_whitening_gets_further_in_as_many_steps(tmp_path: Path) -> None:
    """Inputs that hardly move in most directions: what whitening is for."""
    _, site, weights = case("llama", 6, tmp_path)
    scale = torch.logspace(0, -3, 48)
    calls = [call.with_hidden(call.hidden * scale) for call in site.calls]
    narrow = replace(site, calls=calls)
    start = replace(weights, q=weights.q / scale, k=weights.k / scale, v=weights.v / scale)
    method = Descent(steps=40, learning_rate=0.04, validate=False)
    errors = [
        site_error(narrow, method.descend(narrow, start, whitening, lambda: None))
        for whitening in (plain(narrow), Whitening.of(narrow))
    ]
    assert errors[1] < 0.9 * errors[0]


def test_a_typical_size_is_that_of_most_entries() -> None:
    normal = 3 * torch.randn(200, 100, generator=torch.Generator().manual_seed(0))
    assert typical_size(normal) == pytest.approx(3, rel=0.02)
    normal[:, :2] *= 100  # the standard deviation is now some 40
    assert typical_size(normal) == pytest.approx(3, rel=0.05)
    assert typical_size(torch.tensor([0.0, 0.0, 0.0, 2.0])) > 0


def test_the_learning_rate_falls_to_nothing_along_a_line() -> None:
    method = Descent(steps=8, validate=False)
    rates = [method._decay(step) for step in range(9)]
    assert rates[0] == 1 and rates[4] == pytest.approx(0.5) and rates[8] == pytest.approx(0, abs=1e-15)
    assert rates[2] == pytest.approx(0.75)


def test_minibatches_cover_the_text_before_they_repeat() -> None:
    drawn = {seed: list(minibatches(5, 10, seed)) for seed in range(3)}
    assert all(sorted(order[:5]) == sorted(order[5:]) == [0, 1, 2, 3, 4] for order in drawn.values())
    assert len({tuple(order) for order in drawn.values()}) == 3


def test_whitened_inputs_are_the_same_kept_or_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _, site, _ = case("opt", 6, tmp_path)
    whitening = Whitening.of(site)
    size = site.calls[0].hidden.nbytes
    for room in (0, size, 10**6):
        monkeypatch.setattr("gqasearch.refining.whitening.KEPT_BYTES", room)
        inputs = WhitenedCalls(site, whitening)
        for _ in range(2):
            for index, call in enumerate(site.calls):
                wanted = call.hidden.double() @ torch.linalg.inv(whitening.root).T
                torch.testing.assert_close(inputs[index].hidden.double(), wanted, atol=1e-4, rtol=1e-4)
                assert torch.equal(inputs[index].wanted, call.wanted)
        assert len(inputs._kept) == min(len(site.calls), room // size)


def test_products_are_in_bfloat16_in_wide_layers_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the device is made for it; what is fitted stays in float32 and comes as far."""
    _, site, weights = case("llama", 6, tmp_path)
    monkeypatch.setattr("gqasearch.refining.layer_site.has_bfloat16", lambda device: True)
    assert not site.in_bfloat16
    exact = Descent(steps=10, validate=False).refine_layer(site, weights, lambda: None)
    monkeypatch.setattr("gqasearch.refining.layer_site.LEAST_WIDTH", 48)
    assert site.in_bfloat16 and not replace(site, dtype=torch.float64).in_bfloat16
    found = Descent(steps=10, validate=False).refine_layer(site, weights, lambda: None)
    assert found.q.dtype == found.o.dtype == torch.float32 and not torch.equal(found.q, exact.q)
    monkeypatch.undo()
    before, wanted, error = (site_error(site, layer) for layer in (weights, exact, found))
    assert wanted < 0.9 * before and error == pytest.approx(wanted, rel=0.02)
