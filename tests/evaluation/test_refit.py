"""The refit against least squares done the plain way, and that it does no harm where nothing is shared."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from gqasearch.calibration import collect
from gqasearch.evaluation import Converter, evaluate_quality, model_runner
from gqasearch.grouping import Grouping, LayerGrouping
from gqasearch.merging import make_merge
from gqasearch.models import Parent, layers_replaced
from gqasearch.testing import InMemoryStatistics
from tests.samples import logits_of, random_blocks
from tests.tiny_models import tiny_parent

FAMILIES = ("llama", "mistral", "qwen2", "qwen3")


def converter_of(parent: Parent, folder: Path, **parameters: object) -> Converter:
    blocks = random_blocks(parent.config["vocab_size"], blocks=20)
    statistics = InMemoryStatistics(list(collect(parent, blocks, folder)))
    return Converter(parent, make_merge("optimal", parameters), lambda: statistics)


@pytest.mark.parametrize("family", FAMILIES)
def test_nothing_shared_is_left_alone(family: str, tmp_path: Path) -> None:
    parent = tiny_parent(family)
    blocks = random_blocks(parent.config["vocab_size"])
    converter = converter_of(parent, tmp_path)
    assert converter.refit(Grouping.uniform(LayerGrouping.singletons(6), 2), blocks) == {}


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("kv_heads", [6, 3])
def test_the_first_layer_is_the_least_squares_fit(family: str, kv_heads: int, tmp_path: Path) -> None:
    """One grouped layer: regress the parent's attention output on what the merged heads give, with lstsq."""
    parent = tiny_parent(family, kv_heads=kv_heads, heads=6)
    blocks = random_blocks(parent.config["vocab_size"], blocks=12, padded=True)
    converter = converter_of(parent, tmp_path, ridge=1e-9)
    grouping = Grouping((LayerGrouping.neighbours(kv_heads, 2), LayerGrouping.singletons(kv_heads)))
    found = converter.refit(grouping, blocks, batch_blocks=5)
    assert set(found) == {0}
    seen: list[torch.Tensor] = []
    attention = parent.model.model.layers[0].self_attn
    handle = attention.o_proj.register_forward_hook(lambda _m, args, out: seen.extend((args[0], out)))
    logits_of(parent, blocks)
    with layers_replaced(parent, converter.tied_layers(grouping)):
        logits_of(parent, blocks)
    handle.remove()
    wanted, z = seen[1][blocks.mask].double(), seen[2][blocks.mask].double()
    plain = torch.linalg.lstsq(z, wanted).solution.T
    refitted = found[0].transpose(0, 1).flatten(1).double()
    residual = [float((wanted - z @ w.T).square().sum()) for w in (plain, refitted)]
    assert residual[1] == pytest.approx(residual[0], rel=1e-3)
    start = converter.merged_layer(grouping, 0).o.transpose(0, 1).flatten(1).double()
    assert residual[1] < 0.9 * float((wanted - z @ start.T).square().sum())


def test_a_strong_ridge_keeps_the_closed_form(tmp_path: Path) -> None:
    parent = tiny_parent("llama")
    blocks = random_blocks(parent.config["vocab_size"])
    grouping = Grouping.uniform(LayerGrouping.neighbours(6, 3), 2)
    converter = converter_of(parent, tmp_path, ridge=1e9)
    for index, outputs in converter.refit(grouping, blocks).items():
        torch.testing.assert_close(outputs, converter.merged_layer(grouping, index).o, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("family", FAMILIES)
def test_the_refit_model_is_nearer_to_its_parent_on_the_text_it_was_fitted_on(family: str, tmp_path: Path) -> None:
    parent = tiny_parent(family)
    blocks = random_blocks(parent.config["vocab_size"], blocks=20)
    before = {name: tensor.clone() for name, tensor in parent.model.state_dict().items()}
    converter = converter_of(parent, tmp_path)
    grouping = Grouping.uniform(LayerGrouping.neighbours(6, 2), 2)
    outputs = converter.refit(grouping, blocks)
    runners = {"plain": converter.runner(grouping), "refit": converter.runner(grouping, outputs)}
    _, found = evaluate_quality(model_runner(parent.model), runners, blocks)
    assert found["refit"].kl < 0.9 * found["plain"].kl
    assert all(torch.equal(before[name], tensor) for name, tensor in parent.model.state_dict().items())
