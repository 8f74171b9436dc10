"""Refinements that see the rounded cache: what attention reads, what they gain by it, and that they go on."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from gqasearch.evaluation import ParentLayers, ParentLogProbs, RoundedLayers
from gqasearch.grouping import Grouping, LayerGrouping
from gqasearch.models import LayerWeights, Parent, layers_replaced, output_projection, outputs_noted, run_rounded_layer
from gqasearch.models import tie_heads as tied
from gqasearch.refining import Descent, Joint, LayersAlone, LayerSite, Outputs, Streams
from gqasearch.rounding import KVFormat, parse_format
from tests.refining.cases import THIRDS, blocks_of, converter_of
from tests.tiny_models import tiny_parent

TWO = parse_format("2")


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_attention_reads_what_the_rounded_model_reads(family: str, tmp_path: Path) -> None:
    """The second layer, above a first one that is rounded as well."""
    parent = tiny_parent(family)
    merged = converter_of(parent, tmp_path).merged_layer(THIRDS, 1)
    blocks = blocks_of(parent, blocks=4, padded=True)
    with torch.no_grad():
        streams = Streams(parent, blocks, 2, kv=TWO)
        streams.advance_parent(0)
        streams.advance_converted(0, None)
        streams.advance_parent(1)
        site = streams.site(1, THIRDS.layers[1])
        for batch, (ids, mask) in enumerate(blocks.batches(2)):
            entered = RoundedLayers(ParentLayers(parent), TWO).enter(ids, mask)
            hidden = run_rounded_layer(parent, 0, entered.hidden, entered.arguments[0], TWO)
            with (
                layers_replaced(parent, {1: tied(merged, THIRDS.layers[1], 1)}),
                outputs_noted(output_projection(parent, 1)) as added,
            ):
                run_rounded_layer(parent, 1, hidden, entered.arguments[1], TWO)
            found = site.attend(merged, site.calls[batch])
            torch.testing.assert_close(found[mask], added[0][mask], atol=1e-5, rtol=1e-4)
            assert not torch.allclose(found[mask], unrounded(site).attend(merged, site.calls[batch])[mask], atol=1e-3)


def unrounded(site: LayerSite) -> LayerSite:
    return LayerSite.at(site.parent, site.index, site.layer, site.calls)


@pytest.mark.parametrize(
    ("refinement", "left"), [(Outputs(validate=False), 0.97), (Descent(steps=40, validate=False), 0.95)]
)
def test_less_is_lost_through_the_format(refinement: Outputs | Descent, left: float, tmp_path: Path) -> None:
    parent = tiny_parent("llama")
    blocks, converter = blocks_of(parent, blocks=40), converter_of(parent, tmp_path)
    reference = ParentLogProbs.compute(ParentLayers(parent), blocks)
    kl = []
    for kv in (None, TWO):
        refined = converter.refine(THIRDS, blocks, refinement, kv=kv)
        kl.append(reference.mean_kl(RoundedLayers(converter.runner(THIRDS, refined), TWO)))
    assert kl[1] < left * kl[0]


SOME = Grouping((LayerGrouping.singletons(6), THIRDS.layers[1], LayerGrouping.singletons(6)))


@pytest.mark.parametrize(
    ("whole", "kv", "fitted"),
    [(False, None, {1}), (False, TWO, {1}), (True, None, {1, 2}), (True, TWO, {0, 1, 2})],
)
def test_which_layers_are_fitted(whole: bool, kv: KVFormat | None, fitted: set[int]) -> None:
    """Those in which nothing is shared if it is asked for, and something below or the cache changed."""
    parent = tiny_parent("llama", layers=3)
    refinement, steps = Descent(steps=2, whole=whole, validate=False), []

    def layer_of(index: int) -> LayerWeights:
        layer = parent.layer(index)
        heads = [group[0] for group in SOME.layers[index].groups]
        return replace(layer, k=layer.k[heads], v=layer.v[heads])

    found = refinement.refine(
        parent, SOME, layer_of, blocks_of(parent), kv=kv, progress=lambda done, total: steps.append((done, total))
    )
    assert set(found) == fitted
    total = refinement.total_steps(SOME, kv)
    assert steps[-1] == (total, total), "as many steps as were foretold"
    assert all(not torch.equal(found[index].o, layer_of(index).o) for index in fitted)


def test_a_whole_layer_is_passed_in_its_basis() -> None:
    """Below a layer that is fitted to a rounded cache: what it rounds is what the checkpoint will round."""
    plain, scaled = tiny_parent("llama", layers=2), tiny_parent("llama", layers=2)
    first = plain.layer(0)
    turned = replace(first, v=first.v.clone(), o=first.o.clone())
    turned.v[:, 0] *= 30
    turned.o[:, :, 0] /= 30
    for name, tensor in scaled.family.write_layer(turned, 0).items():
        scaled.model.get_parameter(name).data = tensor.clone()
    grouping = Grouping((LayerGrouping.singletons(6), THIRDS.layers[1]))
    heads = [group[0] for group in THIRDS.layers[1].groups]
    second = replace(plain.layer(1), k=plain.layer(1).k[heads], v=plain.layer(1).v[heads])
    blocks = blocks_of(plain)

    def outputs_of(parent: Parent, below: LayerWeights) -> Tensor:
        found = Outputs(validate=False).refine(
            parent, grouping, lambda index: second if index else below, blocks, kv=TWO
        )
        return found[1].o

    in_basis, wanted = outputs_of(plain, turned), outputs_of(scaled, turned)
    torch.testing.assert_close(in_basis, wanted, atol=1e-4, rtol=1e-3)
    assert not torch.allclose(in_basis, outputs_of(plain, first), atol=1e-3)


def test_a_layer_alone_is_fitted_to_each_format(tmp_path: Path) -> None:
    """The same streams serve all formats; without one a layer is what it was."""
    parent = tiny_parent("llama")
    merged, layer = converter_of(parent, tmp_path).merged_layer(THIRDS, 0), THIRDS.layers[0]
    alone = LayersAlone(parent, blocks_of(parent), Outputs(validate=False))
    plain, rounded = (alone.rounded(kv).refine(0, layer, merged).o for kv in (None, TWO))
    assert torch.equal(plain, alone.refine(0, layer, merged).o)
    made = LayersAlone(parent, blocks_of(parent), Outputs(validate=False), kv=TWO).refine(0, layer, merged).o
    assert torch.equal(rounded, made) and not torch.allclose(rounded, plain, atol=1e-3)


@dataclass(frozen=True)
class Stopping(Outputs):
    before: int = 99

    def refine_layer(self, site: LayerSite, merged: LayerWeights, step: Callable[[], None]) -> LayerWeights:
        if site.index >= self.before:
            raise KeyboardInterrupt
        return super().refine_layer(site, merged, step)


def test_it_goes_on(tmp_path: Path) -> None:
    parent = tiny_parent("llama")
    blocks, converter = blocks_of(parent), converter_of(parent, tmp_path / "statistics")
    wanted = converter.refine(THIRDS, blocks, Outputs(validate=False), kv=TWO)
    with pytest.raises(KeyboardInterrupt):
        converter.refine(THIRDS, blocks, Stopping(before=1, validate=False), folder=tmp_path / "kept", kv=TWO)
    found = converter.refine(THIRDS, blocks, Outputs(validate=False), folder=tmp_path / "kept", kv=TWO)
    assert all(torch.equal(found[index].o, wanted[index].o) for index in wanted)


def test_what_follows_the_basis() -> None:
    assert (
        Outputs(validate=False).after_basis() is None and Descent(rounded_steps=0, validate=False).after_basis() is None
    )
    joint = Joint(rounded_steps=7, seed=3, ridge=0.1, validate=False)
    assert joint.after_basis() == Descent(steps=7, seed=3, ridge=0.1, validate=False)
