"""The free basis: it changes nothing in full precision, and is the best of its kind where that is known."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar

import pytest
import torch
from torch import Tensor

from gqasearch.basis import Balance, balanced_layers
from gqasearch.basis.attention_cost import AttentionCost
from gqasearch.basis.closed_form import closed_form
from gqasearch.basis.fit import Fit, fitted_basis
from gqasearch.basis.pair_basis import PairBasis
from gqasearch.basis.rounding_cost import SideCost
from gqasearch.basis.sample import SideSample, of_one_length, sides_of
from gqasearch.basis.turned_layer import in_basis
from gqasearch.errors import UserError
from gqasearch.evaluation import ParentLayers, RoundedLayers
from gqasearch.grouping import Grouping, LayerGrouping
from gqasearch.models import LayerWeights, Parent, layers_replaced, run_layer, tie_heads
from gqasearch.models.attention_inputs import attention_noted
from gqasearch.models.partial import enter
from gqasearch.rounding import CacheFormat, KVFormat, make_format, parse_format
from tests.samples import logits_of, random_blocks
from tests.tiny_models import VOCAB_SIZE, tiny_parent

SHARED = ([0, 3], [1], [2, 4, 5])


def drawn(generator: torch.Generator, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=generator)


def random_basis(weights: LayerWeights, rotary: int, seed: int) -> Tensor:
    """Any that RoPE leaves free, (G, d, d)."""
    generator, heads = torch.Generator().manual_seed(seed), len(weights.k)
    basis = PairBasis(torch.eye(weights.head_dim).repeat(heads, 1, 1), rotary)
    with torch.no_grad():
        for part in (basis.logs, basis.angles, basis.change):
            part += 0.5 * drawn(generator, *part.shape)
    return basis.matrix().detach()


@pytest.mark.parametrize(
    "family", ["llama", "qwen2", "phi", "cohere", "gpt2", "opt", "stablelm", "gemma2", "granite", "gpt_neox"]
)
def test_another_basis_is_the_same_function(family: str) -> None:
    parent = tiny_parent(family)
    layer = parent.layer(1)
    of = [head for head in range(len(layer.k)) for _ in range(layer.queries_per_kv)]
    keys, values = random_basis(layer, layer.rotary_dim, 0), random_basis(layer, 0, 1)
    blocks = random_blocks(VOCAB_SIZE)
    before = logits_of(parent, blocks)
    with layers_replaced(parent, {1: in_basis(layer, keys, values, of, of)}):
        after = logits_of(parent, blocks)
    assert float((after - before).abs().max()) < 2e-4 * float(before.std())
    if layer.rotary_dim:  # and not for a matrix that mixes frequencies
        wrong = in_basis(layer, random_basis(layer, 0, 0), values, of, of)
        with layers_replaced(parent, {1: wrong}):
            assert float((logits_of(parent, blocks) - before).abs().max()) > 1e-2 * float(before.std())


@pytest.mark.parametrize("family", ["llama", "cohere", "gpt2"])
def test_groups_in_another_basis(family: str) -> None:
    parent = tiny_parent(family)
    layer, partition = parent.layer(0), LayerGrouping.from_groups(SHARED)
    heads = torch.tensor([group[0] for group in SHARED])
    biases = {name: None if (b := getattr(layer, name)) is None else b[heads] for name in ("k_bias", "v_bias")}
    grouped = replace(layer, k=layer.k[heads], v=layer.v[heads], **biases)
    of, blocks = list(partition.labels), random_blocks(VOCAB_SIZE)
    turned = in_basis(grouped, random_basis(grouped, layer.rotary_dim, 0), random_basis(grouped, 0, 1), of, of)
    logits = []
    for weights in (grouped, turned):
        with layers_replaced(parent, {0: tie_heads(weights, partition, 1)}):
            logits.append(logits_of(parent, blocks))
    assert float((logits[1] - logits[0]).abs().max()) < 2e-4 * float(logits[0].std())


def random_sample(seed: int, size: int = 8, blocks: int = 8) -> SideSample:
    """One head whose first dimensions are far larger, and asked for differently."""
    generator = torch.Generator().manual_seed(seed)
    rows = drawn(generator, 1, blocks, 32, size) * torch.logspace(1, -1, size)
    root = drawn(generator, 1, size, size)
    return SideSample(rows, drawn(generator, 1, blocks, 32).square(), root @ root.mT)


def predicted(sample: SideSample, basis: Tensor) -> float:
    """tr(B S B^T) tr(B^-T R B^-1), what a step costs that follows the mean square."""
    second = torch.einsum("gnt,gntd,gnte->gde", sample.weight, sample.rows, sample.rows)
    inverse = torch.linalg.inv(basis)
    of_rows, of_errors = basis @ second @ basis.mT, inverse.mT @ sample.reads @ inverse
    return float((of_rows.diagonal(dim1=1, dim2=2).sum(1) * of_errors.diagonal(dim1=1, dim2=2).sum(1)).sum())


@pytest.mark.parametrize("spread", [False, True])
def test_the_closed_form_is_the_least_of_all_matrices(spread: bool) -> None:
    sample = random_sample(0)
    best = closed_form(sample, 0, spread)
    least = predicted(sample, best)
    assert least < 0.5 * predicted(sample, torch.eye(8)[None])
    generator = torch.Generator().manual_seed(1)
    for scale in (1e-3, 1e-2, 0.1, 1.0):
        for _ in range(20):
            other = best + scale * drawn(generator, 1, 8, 8) * best.abs().mean()
            assert predicted(sample, other) > least * (1 - 1e-4)


def test_the_closed_form_is_the_least_of_all_factors_of_pairs() -> None:
    sample = random_sample(2)
    alike = replace(sample, reads=torch.diag_embed(sample.reads.diagonal(dim1=1, dim2=2)))
    best = closed_form(alike, 8, False)
    least = predicted(alike, best)
    generator = torch.Generator().manual_seed(3)
    for scale in (1e-2, 0.1, 0.5):
        for _ in range(20):
            factors = (scale * drawn(generator, 1, 4)).exp().repeat(1, 2)
            assert predicted(alike, torch.diag_embed(factors) @ best) > least * (1 - 1e-4)


@pytest.mark.parametrize("name", ["int4", "int2", "q4_0", "q8_0", "iq4_nl", "fp8", "kivi4", "hqq4"])
@pytest.mark.parametrize("rotary", [0, 32])
def test_what_is_fitted_costs_no_more_on_blocks_that_it_has_not_seen(name: str, rotary: int) -> None:
    sample, cache = random_sample(4, size=32), make_format(name, "k")
    cost, fit = SideCost(sample, cache, torch.arange(32)), Fit(20, 2, torch.Generator().manual_seed(0))
    basis, held, eye = fitted_basis(sample, cost, rotary, fit), [0, 4], torch.eye(32)[None]
    assert float(cost(basis, held)) <= float(cost(eye, held))
    if name in ("int4", "q4_0") and rotary == 0:
        assert float(cost(basis, held)) < 0.5 * float(cost(eye, held))
    assert torch.allclose(
        (basis @ sample.rows[0, :, :, :, None]).square().mean(), sample.rows.square().mean(), rtol=0.3
    )


def test_descent_finds_more_than_the_closed_form() -> None:
    sample, cache = random_sample(5), make_format("int4", "k")
    cost, fit = SideCost(sample, cache, torch.arange(8)), Fit(150, 4, torch.Generator().manual_seed(0))
    found, start = fitted_basis(sample, cost, 8, fit), closed_form(sample, 8, False)
    everything = range(8)
    assert float(cost(found, everything)) < 0.95 * float(cost(start, everything))


@dataclass(frozen=True)
class Noise(CacheFormat):
    """Adds independent errors of one size, so small that first order is all there is."""

    reference: ClassVar[str] = ""
    size: float = 1e-3

    @property
    def name(self) -> str:
        return "noise"

    def round(self, x: Tensor) -> Tensor:
        return x + self.size * torch.randn(x.shape, generator=torch.Generator().manual_seed(0))

    def rounded_bytes(self, head_dim: int) -> float:
        return 4.0 * head_dim


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_first_order_is_what_small_errors_do(family: str) -> None:
    """Against the attention itself, run with changed keys, and the same for values by hand."""
    parent, blocks = tiny_parent(family), random_blocks(VOCAB_SIZE)
    layer = parent.layer(0)
    entered = enter(parent, blocks.ids, blocks.mask)
    with torch.no_grad(), attention_noted(parent, 0) as calls:
        run_layer(parent, 0, entered.hidden, entered.arguments[0])
    assert len(calls) == 1
    of, eye = list(range(6)), torch.eye(layer.head_dim).repeat(6, 1, 1)
    keys, values = sides_of(calls, [blocks.mask], layer, of, of)
    order, every = torch.arange(layer.head_dim), range(len(blocks.ids))
    measured = AttentionCost(calls, [blocks.mask], layer, of, Noise(), order)(eye, every)
    relative = SideCost(keys, Noise(), order)(eye, every)
    ratio = (measured / measured.mean()) / (relative / relative.mean())  # of heads: both count in units of their own
    assert float(ratio.min()) > 0.5 and float(ratio.max()) < 2
    attention = (calls[0].query @ calls[0].key.mT * calls[0].scale).masked_fill(
        ~torch.ones(blocks.ids.shape[1], blocks.ids.shape[1], dtype=torch.bool).tril(), -torch.inf
    )
    weight = attention.softmax(-1).square()[:, 2].sum(-2)  # of head 2, by token
    assert torch.allclose(values.weight[2], weight / weight.mean(), rtol=1e-3, atol=1e-4)
    read = layer.o[2].mT @ layer.o[2]
    assert torch.allclose(values.reads[2], read / read.diagonal().sum(), rtol=1e-3, atol=1e-5)


def hard(parent: Parent, index: int) -> None:
    """Make one frequency of every key, and one value, 30 times as large: the same function, a burden to a cache."""
    layer = parent.layer(index)
    keys, values = (torch.eye(layer.head_dim).repeat(6, 1, 1) for _ in range(2))
    for place in (1, 1 + layer.rotary_dim // 2):
        keys[:, place, place] = 30.0
    values[:, 0, 0] = 30.0
    changed = parent.family.write_layer(in_basis(layer, keys, values, list(range(6)), list(range(6))), index)
    for name, tensor in changed.items():
        parent.model.get_parameter(name).data = tensor.clone()


@pytest.mark.parametrize("cache", ["4", "k4v2"])
def test_a_burden_is_taken_off(tmp_path: Path, cache: str) -> None:
    """Rounding then costs what it did before anything was made larger, or less."""
    plain, parent = tiny_parent("llama", layers=2), tiny_parent("llama", layers=2)
    for index in range(2):
        hard(parent, index)
    blocks, kv, grouping = (
        random_blocks(VOCAB_SIZE),
        parse_format(cache),
        Grouping.uniform(LayerGrouping.singletons(6), 2),
    )
    layers = balanced_layers(
        parent, grouping, parent.layer, blocks, kv, tmp_path / "basis", Balance(key_steps=60, value_steps=60)
    )
    made = ParentLayers(parent, range(2), lambda index: layers[index])
    errors = [
        float((RoundedLayers(stack, kv)(blocks.ids, blocks.mask) - logits_of(plain, blocks)).square().mean())
        for stack in (ParentLayers(plain), ParentLayers(parent), made)
    ]
    assert errors[1] > 5 * errors[0] and errors[2] < 1.3 * errors[0]
    assert float((made(blocks.ids, blocks.mask) - logits_of(plain, blocks)).abs().max()) < 1e-4


@pytest.mark.parametrize("family", ["gpt2", "opt", "gpt_neox"])
def test_what_all_keys_have_in_common_is_left_out(tmp_path: Path, family: str) -> None:
    """Where RoPE leaves them alone: no softmax sees it, and a cache would have to hold it."""
    parent, blocks = tiny_parent(family, layers=2), random_blocks(VOCAB_SIZE)
    before = logits_of(parent, blocks)
    for index in range(2):
        layer = parent.layer(index)
        assert layer.k_bias is not None
        moved = layer.k_bias.clone()
        moved[:, layer.rotary_dim :] += (
            20 * drawn(torch.Generator().manual_seed(index), *moved.shape)[:, layer.rotary_dim :]
        )
        for name, tensor in parent.family.write_layer(replace(layer, k_bias=moved), index).items():
            parent.model.get_parameter(name).data = tensor.clone()
    assert float((logits_of(parent, blocks) - before).abs().max()) < 1e-3 * float(before.std()), "the same model"

    grouping, kv = Grouping.uniform(LayerGrouping.singletons(6), 2), parse_format("int4")
    layers = balanced_layers(
        parent, grouping, parent.layer, blocks, kv, tmp_path / "basis", Balance(key_steps=0, value_steps=0)
    )
    made = ParentLayers(parent, range(2), lambda index: layers[index])
    assert float((made(blocks.ids, blocks.mask) - before).abs().max()) < 1e-3 * float(before.std())
    far, near = (
        float((RoundedLayers(stack, kv)(blocks.ids, blocks.mask) - before).square().mean())
        for stack in (ParentLayers(parent), made)
    )
    assert near < far / 20


def test_goes_on_at_its_layer(tmp_path: Path) -> None:
    parent, blocks = tiny_parent("llama", layers=3), random_blocks(VOCAB_SIZE)
    grouping, kv = Grouping.uniform(LayerGrouping.singletons(6), 3), parse_format("4")
    whole = balanced_layers(
        parent, grouping, parent.layer, blocks, kv, tmp_path / "whole", Balance(key_steps=3, value_steps=3)
    )
    seen: list[int] = []

    def stopped(index: int) -> LayerWeights:
        seen.append(index)
        if index == 2 and len(seen) == 3:
            raise KeyboardInterrupt
        return parent.layer(index)

    with pytest.raises(KeyboardInterrupt):
        balanced_layers(parent, grouping, stopped, blocks, kv, tmp_path / "part", Balance(key_steps=3, value_steps=3))
    before = {path.name: path.stat().st_mtime_ns for path in (tmp_path / "part").glob("*.safetensors")}
    assert sorted(before) == ["0.safetensors", "1.safetensors"]
    again = balanced_layers(
        parent, grouping, stopped, blocks, kv, tmp_path / "part", Balance(key_steps=3, value_steps=3)
    )
    assert all((tmp_path / "part" / name).stat().st_mtime_ns == time for name, time in before.items())
    assert all(torch.equal(again[index].k, whole[index].k) for index in range(3))


def test_keys_under_a_norm_of_all_heads_stay(tmp_path: Path) -> None:
    parent, blocks = tiny_parent("qwen3", layers=1), random_blocks(VOCAB_SIZE)
    grouping = Grouping.uniform(LayerGrouping.singletons(parent.geometry.num_kv_heads), 1)
    kv = parse_format("4")
    found = balanced_layers(
        parent, grouping, parent.layer, blocks, kv, tmp_path / "basis", Balance(key_steps=3, value_steps=3)
    )[0]
    assert torch.allclose(found.k, parent.layer(0).k) and not torch.allclose(found.v, parent.layer(0).v)


def test_heads_that_the_engine_refuses(tmp_path: Path) -> None:
    parent, grouping = tiny_parent("llama"), Grouping.uniform(LayerGrouping.singletons(6), 2)
    kv = KVFormat("q4_0", make_format("q4_0", "k"), make_format("q4_0", "v"))
    with pytest.raises(UserError, match="q4_0 takes heads whose size is a multiple of 32"):
        balanced_layers(parent, grouping, parent.layer, random_blocks(VOCAB_SIZE), kv, tmp_path)


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_texts_of_several_lengths(family: str) -> None:
    """Batches end where their longest block does; what is added behind the shorter counts for nothing."""
    parent, layer = tiny_parent(family), tiny_parent(family).layer(0)
    calls, masks = [], []
    for length in (24, 16):
        blocks = random_blocks(VOCAB_SIZE, blocks=4, length=length, padded=True)
        entered = enter(parent, blocks.ids, blocks.mask)
        with torch.no_grad(), attention_noted(parent, 0) as noted:
            run_layer(parent, 0, entered.hidden, entered.arguments[0])
        calls, masks = [*calls, *noted], [*masks, blocks.mask]
    of, eye, order = list(range(6)), torch.eye(layer.head_dim).repeat(6, 1, 1), torch.arange(layer.head_dim)
    padded, wider = of_one_length(calls, masks)
    keys, values = sides_of(padded, wider, layer, of, of)
    assert not values.weight[:, 4:, 16:].any() and not keys.weight[:, 4:, 16:].any()
    _, alone = sides_of(calls[1:], masks[1:], layer, of, of)
    mine, own = values.weight[:, 4:, :16], alone.weight
    assert torch.allclose(mine / mine.sum((1, 2), True), own / own.sum((1, 2), True), rtol=1e-4)
    cache = make_format("int4", "k")
    short = AttentionCost(calls[1:], masks[1:], layer, of, cache, order)(eye, range(4))
    cost = AttentionCost(padded, wider, layer, of, cache, order)(eye, range(4, 8))
    assert torch.allclose(cost, short, rtol=1e-4)
